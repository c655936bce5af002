//! The supervisor: one process per project that looks after its containers.
//!
//! It is the only writer of the project's run-time state: it gives containers their networks and names, starts a shim
//! for each, checks their health, restarts them by their policy, and tells commands what happens. It may be killed at
//! any moment: the shims hold everything that a process must hold, and start another supervisor, which takes it all
//! over (`docs/architecture.md`). It ends by itself when no container has a process and no command is connected.

mod attach;
mod container;
mod create;
mod events;
mod health;
mod probe;
mod project;
mod restart;
mod run;
mod server;
mod shims;

pub mod client;
pub mod spawn;
pub mod wire;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::Interest;
use tokio::net::UnixListener;
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

use crate::host::Host;
use crate::image::Store;
use crate::network::{Networks, Options};
use crate::root::{Root, make_directory};
use crate::shim::launcher::Launcher;
use crate::shim::sealed;
use crate::sys::process;
use project::Project;

use crate::error::chain;

/// Worker threads of a supervisor: enough to overlap netlink and file work, few enough to stay small.
const THREADS: usize = 2;

/// Is a supervisor: the front door of the process that [`spawn::Starting`] is, with [`spawn::arguments`].
///
/// Must be called before the process has any thread. Returns the exit code.
pub fn run(arguments: &[String]) -> i32 {
    let [data, run, project] = arguments else {
        return refuse("a supervisor needs the data directory, the run directory and the project's name");
    };
    if !sealed::is_sealed() {
        let mut sealed = vec!["rcompose".to_owned(), spawn::FRONT_DOOR.to_owned()];
        sealed.extend_from_slice(arguments);
        return refuse(&format!("cannot execute a sealed copy of this program: {}", sealed::exec_sealed(&sealed)));
    }
    let root = Root::new(PathBuf::from(data), PathBuf::from(run));
    let waiting = match Waiting::take_stdout() {
        Ok(waiting) => waiting,
        Err(error) => return refuse(&format!("cannot replace standard output: {error}")),
    };
    waiting.hear_of_panics();
    match supervise(&root, project, &waiting) {
        Ok(()) => 0,
        Err(error) => {
            waiting.tell(&format!("{error}\n"));
            let _ = writeln!(io::stderr(), "{error}");
            1
        }
    }
}

/// The command that waits for this supervisor, if one still does.
#[derive(Clone)]
struct Waiting(Arc<Mutex<Option<File>>>);

impl Waiting {
    /// Takes standard output, where the command listens, away from what this process starts.
    fn take_stdout() -> io::Result<Self> {
        let waiting = io::stdout().as_fd().try_clone_to_owned()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        nix::unistd::dup2_stdout(null)?;
        Ok(Self(Arc::new(Mutex::new(Some(waiting.into())))))
    }

    /// Says what became of this supervisor, if that was not said yet; returns whether it was said now.
    fn tell(&self, text: &str) -> bool {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nobody may be there: a shim that starts a supervisor does not wait, and a command may have been killed.
        waiting.is_some_and(|mut waiting| waiting.write_all(text.as_bytes()).is_ok())
    }

    /// Says that this supervisor serves, and waits until whoever wanted one has connected, or has given up.
    async fn serve(&self) {
        let Some(mut waiting) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        // Whoever does not read this is gone, which is what is waited for. A shim that starts a supervisor waits for nothing,
        // and has given it no pipe.
        if waiting.write_all(spawn::READY.as_bytes()).is_ok()
            && let Ok(waiting) = pipe::Sender::from_file(waiting)
        {
            let _ = waiting.ready(Interest::ERROR).await;
        }
    }

    /// Ends the process when a thread of it cannot go on, in every build, with the reason where somebody reads it.
    ///
    /// Libraries panic where the kernel gives them no thread. The shims start another supervisor.
    fn hear_of_panics(&self) {
        let waiting = self.clone();
        std::panic::set_hook(Box::new(move |panic| {
            let reason = panic.payload_as_str().unwrap_or("for a reason unknown");
            if waiting.tell(&format!("it stopped: {reason}\n")) {
                let _ = writeln!(io::stderr(), "stopped: {reason}");
            } else {
                let _ = writeln!(io::stderr(), "{panic}");
            }
            std::process::abort();
        }));
    }
}

/// Says why there is no supervisor: to the command that waits for it, and to the log.
fn refuse(reason: &str) -> i32 {
    // Nobody may be waiting any more.
    let _ = writeln!(io::stdout(), "{reason}");
    let _ = writeln!(io::stderr(), "{reason}");
    1
}

fn supervise(root: &Root, project: &str, waiting: &Waiting) -> Result<(), String> {
    // Not in the terminal's session: its Ctrl-C and hang-up are not for the supervisor. It fails only for the leader
    // of a session, which is as good.
    let _ = nix::unistd::setsid();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    std::env::set_current_dir("/").map_err(|error| format!("cannot change to /: {error}"))?;
    // The containers of a shim that dies become children of this process, which can tell how they end.
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| format!("cannot become a subreaper: {error}"))?;
    let directory = root.project_run(project);
    let Some(lock) = lock(&directory)? else {
        // Another supervisor has the project; whoever wanted one has one.
        waiting.tell(spawn::READY);
        return Ok(());
    };
    let launcher = Launcher::start().map_err(|error| format!("cannot start the launcher: {}", chain(&error)))?;
    // Containers can make it hold many: each connection to a resolver or to a relayed port is one. After the launcher, since
    // containers begin with the limits of whoever started the project.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| format!("cannot read a limit: {error}"))?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|error| format!("cannot raise a limit: {error}"))?;
    tracing_to_stderr();
    process::share_heaps();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(16)
        // Each keeps 60 KiB of stack.
        .thread_keep_alive(Duration::from_secs(1))
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start the runtime: {error}"))?;
    let outcome = runtime.block_on(async {
        let project = serve(root.clone(), project.to_owned(), &directory, launcher, waiting).await?;
        project.tidy().await;
        // While the lock is held, so that no successor's files are taken for ours.
        leave(&directory);
        drop(lock);
        project.left.cancel();
        project.settled().await;
        Ok(())
    });
    runtime.shutdown_background();
    outcome
}

/// Takes the project's lock, which is held as long as the process lives; `None` if another has it.
fn lock(directory: &Path) -> Result<Option<File>, String> {
    let path = directory.join("lock");
    loop {
        make_directory(directory).map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
        let file = match File::options().create(true).truncate(false).write(true).open(&path) {
            Ok(file) => file,
            // The supervisor before us has just removed the directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("cannot open {}: {error}", path.display())),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(format!("cannot lock {}: {error}", path.display())),
        }
        // The file may have been removed between opening and locking it; then its lock protects nothing.
        let (ours, there) = (file.metadata(), fs::metadata(&path));
        if let (Ok(ours), Ok(there)) = (ours, there)
            && (ours.dev(), ours.ino()) == (there.dev(), there.ino())
        {
            return Ok(Some(file));
        }
    }
}

/// Removes everything of this supervisor below the run directory, and the parents nobody uses any more.
///
/// Its lock goes last: while it is held all files are ours, and from then on they may be a successor's.
fn leave(directory: &Path) {
    let lock = directory.join("lock");
    // Each once more, since nobody comes back for it.
    let left = remove_all_but(&lock, directory)
        .or_else(|_| remove_all_but(&lock, directory))
        .and_then(|()| fs::remove_file(&lock).or_else(|_| fs::remove_file(&lock)))
        .and_then(|()| fs::remove_dir(directory).or_else(|_| fs::remove_dir(directory)));
    match left {
        Ok(()) => {}
        // A successor has come.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => return,
        Err(error) => tracing::warn!(%error, "cannot remove {}", directory.display()),
    }
    for parent in directory.ancestors().skip(1).take(2) {
        // Not empty: another project is there.
        if fs::remove_dir(parent).is_err() {
            return;
        }
    }
}

/// Removes what a directory has but one file.
fn remove_all_but(kept: &Path, directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path != kept {
            fs::remove_file(&path).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                io::ErrorKind::IsADirectory => fs::remove_dir_all(&path),
                _ => Err(error),
            })?;
        }
    }
    Ok(())
}

fn tracing_to_stderr() {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter =
        EnvFilter::try_from_env("RCOMPOSE_LOG").unwrap_or_else(|_| EnvFilter::new("warn,rcompose_engine=info"));
    fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
}

/// Serves the project until nothing is left to do for it. Connections that come later find nobody.
async fn serve(
    root: Root,
    name: String,
    directory: &Path,
    launcher: Launcher,
    waiting: &Waiting,
) -> Result<Arc<Project>, String> {
    // Before anything that takes time: commands that come meanwhile wait in the queue, and need not start a supervisor.
    let listener = listen(directory).map_err(|error| format!("cannot listen in {}: {error}", directory.display()))?;
    let host = Host::detect().map_err(|error| chain(&error))?;
    let networks = Networks::open(&root, Options::default()).await.map_err(|error| chain(&error))?;
    let images = Store::open(root.data()).map_err(|error| chain(&error))?;
    let project = Project::new(name, root, host, launcher, networks, images);
    // Layers that were unpacked since the last time are forced to the disk, so that a power cut does not cost them.
    let settling = Arc::clone(&project);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = settling.images.settle() {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot force layers to the disk");
        }
    });
    tokio::spawn(Arc::clone(&project).keep_durable());
    // Children end while containers are being adopted already.
    let mut children = signal(SignalKind::child()).map_err(|error| format!("cannot hear of children: {error}"))?;
    project.adopt_all().await.map_err(|failure| failure.to_string())?;
    let mut awaited = Box::pin(waiting.serve());
    let mut is_awaited = true;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if !project.connected() {
                        break;
                    }
                    let project = Arc::clone(&project);
                    tokio::spawn(async move {
                        server::serve(Arc::clone(&project), stream).await;
                        project.disconnected();
                    });
                }
                Err(error) => tracing::warn!(%error, "cannot accept a connection"),
            },
            _ = children.recv() => {
                project.reap();
                if project.status_of(project.launcher.pid().as_raw()).is_some() {
                    // Without it nothing can be started. The shims start a supervisor that has one.
                    return Err("the launcher was killed".to_owned());
                }
            }
            () = &mut awaited, if is_awaited => {
                is_awaited = false;
                project.settle();
            }
            () = project.idle.notified() => {
                // A command that connected at this moment keeps the supervisor.
                if project.retire_if_idle() {
                    break;
                }
            }
        }
    }
    Ok(project)
}

/// Listens at `supervisor.sock`, which only the owner may connect to. The path may be longer than a socket's address.
fn listen(directory: &Path) -> io::Result<UnixListener> {
    let path = directory.join("supervisor.sock");
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let directory = File::open(directory)?;
    // The umask keeps everybody else out from the first moment.
    UnixListener::bind(format!("/proc/self/fd/{}/supervisor.sock", directory.as_raw_fd()))
}
