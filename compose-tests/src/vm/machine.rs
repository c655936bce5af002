//! A running virtual machine: QEMU, and the line over which scripts go in and their output and exit codes come out.
//! The other end of the line is `vm/guest/files/init`.

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{guest::Guest, payload::Payload};

/// How long a machine may take until it answers, and how long QEMU until it listens.
const BOOT_LIMIT: Duration = Duration::from_mins(10);

/// What the machine has.
#[derive(Debug, Clone)]
pub struct Hardware {
    pub payload: PathBuf,
    /// Disks that keep what was written to them; the system's and the payload's forget it when the machine ends.
    pub disks: Vec<Disk>,
    pub memory_mb: u32,
}

/// A disk in a file.
#[derive(Debug, Clone)]
pub struct Disk {
    pub file: PathBuf,
    /// What the guest knows it by. `init` mounts the one called `data`.
    pub serial: String,
}

impl Hardware {
    /// Returns a machine with the payload and no other disk.
    pub fn new(payload: &Payload) -> Hardware {
        Hardware { payload: payload.disk.clone(), disks: Vec::new(), memory_mb: 2048 }
    }
}

/// A virtual machine that runs. Killed when dropped.
#[derive(Debug)]
pub struct Machine {
    qemu: Child,
    line: UnixStream,
    /// Of the line's output, what has not been looked at.
    pending: Vec<u8>,
    log: PathBuf,
}

/// How a script ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub code: i32,
    /// Standard output and standard error.
    pub text: String,
}

impl Output {
    /// Returns the text of a script that must have succeeded.
    pub fn ok(self) -> anyhow::Result<String> {
        if self.code == 0 { Ok(self.text) } else { bail!("exit code {}:\n{}", self.code, self.text) }
    }
}

impl Machine {
    /// Boots and waits until scripts can be run. `folder` is for the machine's files; it must exist and be no other's.
    pub fn boot(guest: &Guest, hardware: &Hardware, folder: &Path) -> anyhow::Result<Machine> {
        let (socket, log) = (folder.join("line"), folder.join("console.log"));
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-cpu", "max"]);
        command.args(["-m", &hardware.memory_mb.to_string()]);
        command.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-smp", "2"]);
        command.arg("-kernel").arg(&guest.kernel).arg("-initrd").arg(&guest.first);
        command.args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"]);
        command.arg("-serial").arg(format!("file:{}", log.display()));
        let mut disk = |file: &Path, serial: &str, options: &str| {
            command.arg("-drive").arg(format!("file={},format=raw,if=none,id={serial},{options}", file.display()));
            command.args(["-device", &format!("virtio-blk-pci,drive={serial},serial={serial}")]);
        };
        disk(&guest.disk, "system", "snapshot=on");
        disk(&hardware.payload, "payload", "snapshot=on");
        for Disk { file, serial } in &hardware.disks {
            // What the guest's kernel has written is in the host's page cache and outlives QEMU; what it has not
            // written is lost with it.
            disk(file, serial, "cache=writeback");
        }
        command.args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=line,name=line"]);
        command.arg("-chardev").arg(format!("socket,id=line,path={},server=on,wait=on", socket.display()));
        command.args(["-device", "virtio-rng-pci"]);
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(folder.join("qemu.log"))?);
        let mut qemu = command.spawn().context("cannot run qemu-system-x86_64 (of Debian's qemu-system-x86)")?;
        let line = match connect(&socket, &mut qemu, folder) {
            Ok(line) => line,
            Err(error) => {
                qemu.kill().and_then(|()| qemu.wait()).context("cannot end QEMU")?;
                return Err(error);
            }
        };
        let mut machine = Machine { qemu, line, pending: Vec::new(), log };
        machine.until(b"@@ready\n", BOOT_LIMIT, &mut |_| ()).context("the virtual machine does not boot")?;
        Ok(machine)
    }

    /// Runs a shell script and returns how it ended.
    pub fn run(&mut self, script: &str, limit: Duration) -> anyhow::Result<Output> {
        let mut text = Vec::new();
        let code = self.run_showing(script, limit, &mut |bytes| text.extend_from_slice(bytes))?;
        Ok(Output { code, text: String::from_utf8_lossy(&text).into_owned() })
    }

    /// Runs a shell script, hands its output on as it comes, and returns its exit code.
    pub fn run_showing(&mut self, script: &str, limit: Duration, show: &mut dyn FnMut(&[u8])) -> anyhow::Result<i32> {
        self.start(script)?;
        self.until(b"\n@@exit ", limit, show)?;
        let mut code = Vec::new();
        self.until(b"\n", limit, &mut |bytes| code.extend_from_slice(bytes))?;
        let code = String::from_utf8_lossy(&code).into_owned();
        code.parse().with_context(|| format!("the virtual machine gave the exit code `{code}`"))
    }

    /// Starts a shell script that nobody will wait for.
    pub fn start(&mut self, script: &str) -> anyhow::Result<()> {
        let mut line = base64(script.as_bytes());
        line.push('\n');
        self.line.write_all(line.as_bytes()).context("cannot write to the virtual machine")
    }

    /// Returns what came over the line within `limit`, or since the last call.
    pub fn listen(&mut self, limit: Duration) -> anyhow::Result<Vec<u8>> {
        let end = Instant::now() + limit;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            if !self.receive(left)? {
                break;
            }
        }
        Ok(std::mem::take(&mut self.pending))
    }

    /// Waits for a text and returns what came up to its end.
    pub fn listen_for(&mut self, text: &[u8], limit: Duration) -> anyhow::Result<Vec<u8>> {
        let mut seen = Vec::new();
        self.until(text, limit, &mut |bytes| seen.extend_from_slice(bytes))?;
        seen.extend_from_slice(text);
        Ok(seen)
    }

    /// Stops the machine where it is, so that its disks can be copied as a power cut would leave them.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a stopped machine go on.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.qemu.id()).context("a pid fits")?);
        kill(pid, signal).context("cannot signal QEMU")
    }

    /// Cuts the power: whatever the guest has not written to its disk is lost.
    pub fn cut(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.qemu.kill().context("cannot kill QEMU")?;
        self.qemu.wait().context("cannot wait for QEMU")?;
        Ok(())
    }

    /// Reads up to and over `mark`, handing on what comes before it.
    fn until(&mut self, mark: &[u8], limit: Duration, show: &mut dyn FnMut(&[u8])) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            if let Some(at) = self.pending.windows(mark.len()).position(|window| window == mark) {
                show(&self.pending[..at]);
                self.pending.drain(..at + mark.len());
                return Ok(());
            }
            // What may be the mark's beginning stays.
            let safe = self.pending.len().saturating_sub(mark.len());
            show(&self.pending[..safe]);
            self.pending.drain(..safe);
            let Some(left) = limit.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) else {
                bail!("nothing more came within {} s; the kernel said:\n{}", limit.as_secs(), self.kernel_log());
            };
            self.receive(left)?;
        }
    }

    /// Takes in what comes within `limit`; `false`: nothing did.
    fn receive(&mut self, limit: Duration) -> anyhow::Result<bool> {
        self.line.set_read_timeout(Some(limit))?;
        let mut buffer = [0; 8 * 1024];
        match self.line.read(&mut buffer) {
            Ok(0) => bail!("the virtual machine ended by itself; the kernel said:\n{}", self.kernel_log()),
            Ok(count) => {
                self.pending.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error).context("cannot read from the virtual machine"),
        }
    }

    /// Returns the end of what the kernel printed.
    pub fn kernel_log(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.end();
    }
}

fn connect(socket: &Path, qemu: &mut Child, folder: &Path) -> anyhow::Result<UnixStream> {
    let started = Instant::now();
    loop {
        match UnixStream::connect(socket) {
            Ok(line) => return Ok(line),
            Err(error) if started.elapsed() > BOOT_LIMIT => return Err(error).context("QEMU does not listen"),
            Err(_) => {}
        }
        if let Some(status) = qemu.try_wait()? {
            let said = fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
            bail!("QEMU ended with {status}: {}", said.trim_end());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Encodes bytes as a single line (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut value = 0_u32;
        for index in 0..3 {
            value = value << 8 | u32::from(chunk.get(index).copied().unwrap_or(0));
        }
        for index in 0..4 {
            let letter = LETTERS[(value >> (18 - 6 * index)) as usize & 63];
            text.push(if index > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
