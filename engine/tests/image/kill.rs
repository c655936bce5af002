//! Kills a process at every single change that it makes to the store, and looks at what is left.
//!
//! The process is traced (`ptrace(2)`): before the n-th system call that changes something in the store it is killed, for
//! n from one until it gets through. After each of these deaths the store must be whole, an image that had nothing to do
//! with it must be as it was, the same work must succeed, and garbage collection must free what was left behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use crate::support::{FakeServer, Layer, Setup, TestImage, is_root, nothing_in_use, runtime};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rcompose_engine::image::{
    Client, ClientOptions, Damage, Digest, Image, Platform, PullOptions, Reference, Store, no_progress, prepare, pull,
    repair,
};

fn options() -> PullOptions {
    PullOptions::new(Arc::new(Client::new(ClientOptions::default())))
}

/// What is done by the process that is killed, and by the one that comes after it.
fn work(operation: &str, data: &Path, argument: &str) {
    let store = Arc::new(Store::open(data).unwrap());
    let runtime = runtime();
    let name = || argument.parse::<Reference>().unwrap();
    match operation {
        "open" => {}
        "pull" => drop(runtime.block_on(pull(&store, &name(), &options(), &no_progress())).unwrap()),
        "repair" => drop(runtime.block_on(repair(&store, &name(), &options(), &no_progress())).unwrap()),
        "load" => {
            for name in store.load_archive(File::open(argument).unwrap(), &Platform::host()).unwrap() {
                runtime.block_on(prepare(&store, &name, &options(), &no_progress())).unwrap().unwrap();
            }
        }
        "tag" => {
            let image = store.get(&name()).unwrap().unwrap();
            store.tag(&image, &"other:1".parse().unwrap()).unwrap();
        }
        "remove" => drop(store.remove(&name()).unwrap()),
        "gc" => drop(store.gc(nothing_in_use).unwrap()),
        "settle" => store.settle().unwrap(),
        _ => unreachable!("{operation}"),
    }
}

/// Is no test: the process that is killed.
#[test]
fn victim() {
    let Ok(operation) = std::env::var("VICTIM_OPERATION") else { return };
    let (data, argument) = (std::env::var("VICTIM_DATA").unwrap(), std::env::var("VICTIM_ARGUMENT").unwrap());
    // Until it is traced.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    work(&operation, Path::new(&data), &argument);
}

/// How a traced process ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Killed before this call.
    Killed(String),
    Done,
}

/// Runs an operation and kills it before its n-th change to the store (the first is 1).
fn kill_at(count: usize, operation: &str, data: &Path, argument: &str) -> End {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kill::victim", "--test-threads=1"])
        .env("VICTIM_OPERATION", operation)
        .env("VICTIM_DATA", data)
        .env("VICTIM_ARGUMENT", argument)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    trace(&mut child, count, data)
}

fn trace(child: &mut Child, count: usize, data: &Path) -> End {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let flags = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_EXITKILL;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread = Pid::from_raw(thread.unwrap().file_name().to_str().unwrap().parse().unwrap());
        match ptrace::seize(thread, flags) {
            Ok(()) => ptrace::interrupt(thread).unwrap(),
            // A traced thread has just made it, so it is traced already.
            Err(Errno::EPERM) => {}
            Err(error) => panic!("cannot trace {thread}: {error}"),
        }
    }
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let mut changes = 0;
    let mut killed = None;
    loop {
        // Children of this thread only: other tests have theirs.
        let status = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).unwrap();
        let (thread, signal) = match status {
            WaitStatus::Exited(ended, code) if ended == pid => {
                assert_eq!(code, 0, "it failed by itself");
                return End::Done;
            }
            WaitStatus::Signaled(ended, signal, _) if ended == pid => {
                return End::Killed(killed.unwrap_or_else(|| panic!("it died of {signal}")));
            }
            WaitStatus::PtraceSyscall(thread) => {
                let change = change(thread, data);
                changes += usize::from(change.is_some());
                if change.is_some() && changes == count {
                    killed = change;
                    child.kill().unwrap();
                    // All of its threads are waited for, or it would never be gone.
                    continue;
                }
                (thread, None)
            }
            WaitStatus::PtraceEvent(thread, _, _) => (thread, None),
            WaitStatus::Stopped(thread, signal) => (thread, Some(signal).filter(|signal| *signal != Signal::SIGTRAP)),
            _ => continue,
        };
        match ptrace::syscall(thread, signal) {
            // It ended meanwhile.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("cannot let {thread} go on: {error}"),
        }
    }
}

/// Returns what a stopped thread is about to change in the store, if that is what it is about to do.
fn change(thread: Pid, data: &Path) -> Option<String> {
    let registers = ptrace::getregs(thread).ok()?;
    // What the kernel has put there before a call; behind one it is the result.
    if registers.rax.cast_signed() != -i64::from(libc::ENOSYS) {
        return None;
    }
    let call = registers.orig_rax.cast_signed();
    let making = u64::from((libc::O_CREAT | libc::O_TRUNC).cast_unsigned());
    let name = match call {
        libc::SYS_openat if registers.rdx & making != 0 => "open",
        libc::SYS_rename | libc::SYS_renameat | libc::SYS_renameat2 => "rename",
        libc::SYS_unlink | libc::SYS_unlinkat | libc::SYS_rmdir => "unlink",
        libc::SYS_mkdir | libc::SYS_mkdirat => "mkdir",
        libc::SYS_symlink | libc::SYS_symlinkat => "symlink",
        libc::SYS_link | libc::SYS_linkat => "link",
        libc::SYS_mknod | libc::SYS_mknodat => "mknod",
        libc::SYS_chmod | libc::SYS_fchmodat => "chmod",
        libc::SYS_fchownat => "chown",
        libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_pwrite64
        | libc::SYS_sendfile
        | libc::SYS_copy_file_range
        | libc::SYS_ftruncate
        | libc::SYS_fsync
        | libc::SYS_fdatasync
        | libc::SYS_syncfs
        | libc::SYS_sync_file_range
        | libc::SYS_fchmod
        | libc::SYS_fchown
        | libc::SYS_fsetxattr
        | libc::SYS_flock => {
            let file = fs::read_link(format!("/proc/{thread}/fd/{}", registers.rdi)).ok()?;
            if !file.starts_with(data) {
                return None;
            }
            "change"
        }
        libc::SYS_utimensat => "utimes",
        _ => return None,
    };
    Some(format!("{name} ({call})"))
}

/// Describes every file below a directory.
fn tree(path: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut rest = vec![path.to_owned()];
    while let Some(path) = rest.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mut text = format!("{:o} {} {}", metadata.mode(), metadata.uid(), metadata.mtime());
        if metadata.is_dir() {
            rest.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if metadata.is_file() {
            text += &format!(" {}", Digest::of(&fs::read(&path).unwrap()));
        }
        found.insert(path, text);
    }
    found
}

fn names_in(path: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// A store with an image that nobody touches, and one that is worked on.
struct World {
    setup: Setup,
    kept: Image,
    layers: Vec<BTreeMap<PathBuf, String>>,
    server: FakeServer,
    app: Reference,
}

fn picture(name: &str) -> TestImage {
    let base = Layer::new().directory("etc").file("etc/base", name.as_bytes()).symlink("link", "etc").tar();
    let own = Layer::new().file("own", &[7; 3000]).file("etc/.wh.gone", name.as_bytes()).tar();
    TestImage::new(&[(base, "gzip"), (own, "zstd")])
}

impl World {
    fn new() -> Self {
        let setup = Setup::new();
        let keeper = FakeServer::serving(picture("kept"), |_| None);
        let kept =
            runtime().block_on(pull(&setup.store, &keeper.reference("kept"), &setup.options, &no_progress())).unwrap();
        let layers = kept.diff_ids.iter().map(|id| tree(&setup.data().join("layers").join(id.hex()))).collect();
        let server = FakeServer::serving(picture("app"), |_| None);
        let app = server.reference("app");
        Self { setup, kept, layers, server, app }
    }

    fn pull(&self) -> Image {
        let store = Arc::new(Store::open(&self.setup.data()).unwrap());
        runtime().block_on(pull(&store, &self.app, &options(), &no_progress())).unwrap()
    }

    /// Checks what must hold at every instant.
    fn check(&self, when: &str) {
        let data = self.setup.data();
        let blobs = data.join("images/blobs/sha256");
        for name in names_in(&blobs) {
            let actual = Digest::of(&fs::read(blobs.join(&name)).unwrap());
            assert_eq!(actual.hex(), name, "a blob with another digest, {when}");
        }
        let store = Store::open(&data).unwrap();
        assert_eq!(store.verify(&self.kept).unwrap(), [], "{when}");
        for (id, before) in self.kept.diff_ids.iter().zip(&self.layers) {
            assert_eq!(&tree(&data.join("layers").join(id.hex())), before, "another image's layer, {when}");
        }
        // What can be found can be used.
        for image in store.list().unwrap() {
            if store.get(&image.reference).unwrap().is_some() {
                let mut damage = store.verify(&image).unwrap();
                // A repair begins with a blob missing that nothing but a push or a save needs.
                damage.retain(|damage| !(when.contains("repair") && matches!(damage, Damage::MissingBlob(_))));
                assert_eq!(damage, [], "{when}");
                assert_eq!(store.read_file(&image, "/link/../own").unwrap().unwrap(), [7; 3000], "{when}");
            }
        }
    }

    /// Takes the image away, and expects that nothing of it or of any process that died is left.
    fn clean(&self, when: &str) {
        let data = self.setup.data();
        let store = Store::open(&data).unwrap();
        for image in store.list().unwrap() {
            if image.id != self.kept.id {
                store.remove_image(&image.id).unwrap();
            }
        }
        store.gc(nothing_in_use).unwrap();
        assert_eq!(self.setup.leftovers(), [""; 0], "{when}");
        assert_eq!(names_in(&data.join("images/blobs/sha256")).len(), 4, "{when}");
        for directory in ["layers", "layers/.meta"] {
            assert_eq!(names_in(&data.join(directory)).len(), 2, "{directory}, {when}");
        }
        self.check(when);
    }

    /// Kills an operation at every change. `before` makes the store ready for it.
    fn kill_everywhere(&self, operation: &str, argument: &str, before: impl Fn(&Self)) {
        let data = self.setup.data();
        for count in 1.. {
            before(self);
            let end = kill_at(count, operation, &data, argument);
            let when = format!("after {operation} was ended by {end:?} at change {count}");
            self.check(&when);
            if end == End::Done {
                println!("{operation}: {} changes", count - 1);
                assert!(count > 2, "{operation} was not seen to change anything");
                break;
            }
            // What is left hinders nobody.
            work(operation, &data, argument);
            self.check(&when);
            self.clean(&when);
        }
        self.clean("in the end");
    }
}

#[test]
fn a_pull_is_killed_at_every_change() {
    if !is_root() {
        return;
    }
    let world = World::new();
    world.kill_everywhere("pull", &world.app.to_string(), |_| ());
    assert!(world.server.count("/blobs/") > 3);
}

#[test]
fn a_load_is_killed_at_every_change() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let archive = world.setup.directory.path().join("archive.tar");
    let image = world.pull();
    world.setup.store.save(&[image], File::create(&archive).unwrap()).unwrap();
    world.clean("in the beginning");
    world.kill_everywhere("load", archive.to_str().unwrap(), |_| ());
}

#[test]
fn a_repair_is_killed_at_every_change() {
    if !is_root() {
        return;
    }
    let world = World::new();
    world.kill_everywhere("repair", &world.app.to_string(), |world| {
        let image = world.pull();
        let data = world.setup.data();
        fs::remove_file(data.join("images/blobs/sha256").join(image.layers[0].digest.hex())).unwrap();
        fs::remove_dir_all(data.join("layers").join(image.diff_ids[1].hex())).unwrap();
    });
}

#[test]
fn small_operations_are_killed_at_every_change() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let name = world.app.to_string();
    let pulled = |world: &World| drop(world.pull());
    world.kill_everywhere("tag", &name, pulled);
    world.kill_everywhere("remove", &name, pulled);
    world.kill_everywhere("settle", &name, pulled);
    world.kill_everywhere("gc", &name, |world| {
        world.pull();
        assert!(world.setup.store.remove(&world.app).unwrap());
    });
}

#[test]
fn opening_a_new_store_is_killed_at_every_change() {
    if !is_root() {
        return;
    }
    let server = FakeServer::serving(picture("app"), |_| None);
    for count in 1.. {
        let directory = tempfile::Builder::new().prefix("rcompose-image-").tempdir().unwrap();
        let data = directory.path().join("data");
        if kill_at(count, "open", &data, "") == End::Done {
            assert!(count > 10);
            break;
        }
        work("pull", &data, &server.reference("app").to_string());
        let store = Store::open(&data).unwrap();
        let images = store.list().unwrap();
        assert_eq!(images.len(), 1, "change {count}");
        assert_eq!(store.verify(&images[0]).unwrap(), [], "change {count}");
        store.remove_image(&images[0].id).unwrap();
        store.gc(nothing_in_use).unwrap();
        assert_eq!(names_in(&data.join("layers")), [""; 0], "change {count}");
    }
}
