//! A terminal in which a command runs, for tests that type into it and read what it shows.

use std::{
    fs::File,
    io::{Read, Write},
    os::{fd::OwnedFd, unix::process::ExitStatusExt as _},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    fcntl::{OFlag, open},
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::{
        stat::Mode,
        termios::{Termios, tcgetattr},
    },
};

use crate::wait;

/// Control-C, and the keys that leave a container.
pub const INTERRUPT: &str = "\x03";
pub const DETACH: &str = "\x10\x11";

/// A terminal, and the command whose terminal it is. What is left of the command is killed with it.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    master: File,
    /// The other end, by which the settings are looked at: they are there as long as this is open.
    end: Option<OwnedFd>,
    before: Settings,
    shown: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

/// What can be set of a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings(Vec<u64>);

impl Settings {
    fn of(end: &OwnedFd) -> Settings {
        let Termios { input_flags, output_flags, control_flags, local_flags, control_chars, .. } =
            tcgetattr(end).expect("a terminal has settings");
        let flags = [input_flags.bits(), output_flags.bits(), control_flags.bits(), local_flags.bits()];
        Settings(flags.into_iter().map(u64::from).chain(control_chars.into_iter().map(u64::from)).collect())
    }
}

impl Terminal {
    /// Runs a command in a terminal of this many rows and columns.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Terminal {
        let (master, end) = pair().expect("there are terminals");
        set_size(&end, rows, columns);
        let open = || Stdio::from(end.try_clone().expect("there are descriptors"));
        let before = Settings::of(&end);
        // Makes the terminal that of a session of its own, so that it sends signals.
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args()).env_clear();
        session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm");
        if let Some(folder) = command.get_current_dir() {
            session.current_dir(folder);
        }
        let child = session.stdin(open()).stdout(open()).stderr(open()).spawn().expect("util-linux is installed");
        let master = File::from(master);
        let mut copy = master.try_clone().expect("there are descriptors");
        let shown = Arc::new(Mutex::new(Vec::new()));
        let screen = Arc::clone(&shown);
        // Ends with the terminal, which has no writer any more then.
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = copy.read(&mut buffer) {
                screen.lock().expect("nobody panics with it").extend_from_slice(&buffer[..count]);
            }
        });
        Terminal { child, master, end: Some(end), before, shown, reader }
    }

    fn end(&self) -> &OwnedFd {
        self.end.as_ref().expect("it is closed at the end only")
    }

    /// Types something.
    pub fn type_in(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).expect("a terminal takes what is typed");
    }

    /// Makes the window another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        set_size(self.end(), rows, columns);
    }

    /// Returns all that was shown so far.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("nobody panics with it")).into_owned()
    }

    /// Waits until this has been shown.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        self.wait_until(text, |shown| shown.contains(text));
    }

    /// Waits until what was shown is as `wanted` says.
    #[track_caller]
    pub fn wait_until(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        wait::until(wait::PATIENCE, &format!("{what:?} in the terminal"), || {
            let shown = self.shown();
            if wanted(&shown) { Ok(()) } else { Err(shown) }
        });
    }

    /// Types a line for a shell until that shows what it is asked for. What a program is to notice first, such as the
    /// terminal's size, may be later than what is typed.
    #[track_caller]
    pub fn ask_until(&self, line: &str, answer: &str) {
        wait::until(wait::PATIENCE, &format!("{answer:?} in the terminal"), || {
            let asked = self.shown().len();
            self.type_in(&format!("{line}\n"));
            let mut answered = String::new();
            for _ in 0..20 {
                thread::sleep(Duration::from_millis(50));
                answered = self.shown().split_off(asked);
                if answered.contains(answer) {
                    return Ok(());
                }
            }
            Err(answered)
        });
    }

    /// Talks to a shell in a terminal of 33 rows and 91 columns: its size, another one, Control-C for what runs in it. Ends
    /// it with the code 7, and returns what was shown.
    #[track_caller]
    pub fn talk_to_shell(self) -> String {
        self.ask_until("stty size", "33 91");
        self.resize(44, 99);
        self.ask_until("stty size", "44 99");
        // The shell echoes the line, but not what it makes of it.
        self.type_in("echo sleeping-$((1 + 1)); sleep 1000\n");
        self.wait_for("sleeping-2");
        // A shell that has not put its child into the foreground yet keeps the signal from it, so again until it is heard.
        self.ask_until(&format!("{INTERRUPT}echo ended-$?-$((1 + 1))"), "ended-130-2");
        self.type_in("tty; exit 7\n");
        let (code, shown) = self.finish();
        assert_eq!(code, 7, "{shown}");
        assert!(shown.contains("/dev/pts/0") || shown.contains("/dev/console"), "{shown}");
        shown
    }

    /// Waits until the command has set the terminal for itself.
    #[track_caller]
    pub fn wait_until_raw(&self) {
        wait::until(wait::PATIENCE, "the terminal to pass everything on", || {
            let now = Settings::of(self.end());
            if now == self.before { Err(now) } else { Ok(()) }
        });
    }

    /// Waits for the end of the command, and checks that the terminal is as it was before. Returns the exit code, 128 + n
    /// after signal n, and all that was shown.
    #[track_caller]
    pub fn finish(mut self) -> (i32, String) {
        let status = wait::until(wait::PATIENCE, "the end of the command", || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(self.shown()),
        });
        assert_eq!(Settings::of(self.end()), self.before, "the terminal is not as it was: {}", self.shown());
        // What was written last may still be on its way; nobody but us has the terminal open any more.
        self.end = None;
        wait::until(wait::PATIENCE, "the end of what is shown", || {
            if self.reader.is_finished() { Ok(()) } else { Err(self.shown()) }
        });
        (status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)), self.shown())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Where it has ended there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns both ends of a new terminal. Nobody inherits them: a process that some other test leaves running would hold the
/// terminal open.
fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let master = posix_openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let end = open(ptsname_r(&master)?.as_str(), flags, Mode::empty())?;
    Ok((master.into(), end))
}

fn set_size(end: &OwnedFd, rows: u16, columns: u16) {
    let size = format!("stty rows {rows} cols {columns}");
    let end = end.try_clone().expect("there are descriptors");
    let status = Command::new("sh").args(["-c", &size]).stdin(end).status().expect("there is a shell");
    assert!(status.success(), "the size of a terminal can be set");
}
