//! Processes as `ps -ef` shows them, read from `/proc`.

use std::fs;

/// One process as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub uid: u32,
    pub pid: i32,
    pub parent: i32,
    /// How much of a processor it used while it lived, in percent; 99 at most.
    pub utilization: u64,
    pub started: jiff::Timestamp,
    /// Such as `pts/0`; `?` where there is none.
    pub terminal: String,
    /// Processor time in seconds.
    pub seconds: u64,
    pub command: String,
}

/// Reads a process; `None` where it has ended.
pub fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime = uptime.split_ascii_whitespace().next()?.parse::<f64>().ok()?;
    parse(pid, &stat, &status, &command_line, uptime, jiff::Timestamp::now())
}

fn parse(
    pid: i32,
    stat: &str,
    status: &str,
    command_line: &[u8],
    uptime: f64,
    now: jiff::Timestamp,
) -> Option<Process> {
    // The command's name is in parentheses and may have blanks and parentheses itself.
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let name = &stat[open + 1..close];
    let fields = stat[close + 1..].split_ascii_whitespace().collect::<Vec<_>>();
    // Numbered as in proc_pid_stat(5), where the state is field 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<i64>().ok();
    // Linux counts in hundredths of a second for everybody outside of the kernel.
    let seconds = |ticks: i64| u64::try_from(ticks).unwrap_or(0) / 100;
    let used = seconds(field(14)? + field(15)?);
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().nth(1)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an uptime is small and positive")]
    let lived = (uptime as u64).saturating_sub(seconds(field(22)?));
    // A container chooses what stands in either, and is not to move the cursor of a terminal with it.
    let tame = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    let words = command_line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
    let command = tame(words.trim_end());
    Some(Process {
        uid: uid.parse().ok()?,
        pid,
        parent: i32::try_from(field(4)?).ok()?,
        utilization: (used * 100).checked_div(lived).unwrap_or(0).min(99),
        started: now - jiff::SignedDuration::from_secs(i64::try_from(lived).ok()?),
        terminal: terminal(field(7)?),
        seconds: used,
        command: if command.is_empty() { format!("[{}]", tame(name)) } else { command },
    })
}

/// Returns the name of a terminal by its device number (`proc_pid_stat(5)`, field 7).
fn terminal(device: i64) -> String {
    let (major, minor) = ((device >> 8) & 0xFFF, (device & 0xFF) | ((device >> 12) & 0xF_FF00));
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        _ => "?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_from_what_proc_says() {
        let stat = "42 (a ) b) S 7 42 42 34816 42 4194560 1 2 3 4 500 250 0 0 20 0 1 0 1000 9 9 9\n";
        let now = "2026-11-21T10:00:30Z".parse().unwrap();
        let process = parse(42, stat, "Name:\tx\nUid:\t0\t65534\t0\t0\n", b"sleep\x0010\x1b[2J\0", 40.5, now).unwrap();
        let want = Process {
            uid: 65534,
            pid: 42,
            parent: 7,
            utilization: 23,
            started: "2026-11-21T10:00:00Z".parse().unwrap(),
            terminal: "pts/0".into(),
            seconds: 7,
            command: "sleep 10?[2J".into(),
        };
        assert_eq!(process, want);
        assert_eq!(parse(42, stat, "Uid:\t0\t0\n", b"", 10.0, now).unwrap().command, "[a ) b]");
        let stat = stat.replace("a ) b", "a\x1b]0;b\x07");
        assert_eq!(parse(42, &stat, "Uid:\t0\t0\n", b"", 10.0, now).unwrap().command, "[a?]0;b?]");
    }

    #[test]
    fn this_process_can_be_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(read(own).map(|process| process.pid), Some(own));
        assert_eq!(read(i32::MAX), None);
    }
}
