//! Power cuts and resets: what is on the disk when the machine stops in the middle of its work, and what the next boot
//! makes of it. The scripts are in `vm/guest-files`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, bail};

use super::{
    guest::{Guest, make_empty_disk, run},
    machine::{Disk, Hardware, Machine},
    payload::Payload,
};

/// How long a script may take until it says something.
const LIMIT: Duration = Duration::from_mins(20);
/// Disks that one machine can have beside those it always has.
const DISKS: usize = 16;

/// Cuts the power at many moments while the machine pulls, starts and removes, and looks at each of the disks in
/// another machine.
///
/// All but the last cut are simulated: the machine is stopped, its disk copied, and the machine goes on.
pub fn cuts(guest: &Guest, payload: &Payload, folder: &Path, count: usize, say: &dyn Fn(&str)) -> anyhow::Result<()> {
    let data = folder.join("data.disk");
    make_empty_disk(&data, "1G")?;
    let mut hardware = Hardware::new(payload);
    hardware.disks.push(Disk { file: data.clone(), serial: "data".to_owned() });
    let mut machine = Machine::boot(guest, &hardware, folder)?;
    machine.start("exec sh /payload/vm/work.sh")?;
    // The first moments are those of an empty store.
    let mut seen = machine.listen_for(b": up\n", LIMIT)?;
    let mut random = Random::new()?;
    let mut disks = Vec::new();
    for number in 0..count {
        seen.extend(machine.listen(Duration::from_millis(200 + random.below(6000)))?);
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((_, code)) = text.split_once("@@exit ") {
            bail!("the work ended with {} before its power was cut:\n{text}", code.trim());
        }
        let disk = Disk { file: folder.join(format!("cut-{number}.disk")), serial: format!("cut-{number}") };
        if number + 1 < count {
            machine.freeze()?;
            let copied = copy(&data, &disk.file);
            machine.thaw()?;
            copied?;
            disks.push((disk, last_line(&text)));
        } else {
            disks.push((Disk { file: data.clone(), ..disk }, last_line(&text)));
            break;
        }
    }
    machine.cut()?;
    say(&format!("{count} disks to look at"));
    let mut failed = 0;
    for some in disks.chunks(DISKS) {
        let mut hardware = Hardware::new(payload);
        hardware.disks.extend(some.iter().map(|(disk, _)| disk.clone()));
        let mut machine = Machine::boot(guest, &hardware, folder)?;
        for (disk, moment) in some {
            let output = machine.run(&format!("sh /payload/vm/check.sh {}", disk.serial), LIMIT)?;
            let fine = output.code == 0;
            say(&format!("{} (`{moment}`): {}", disk.serial, if fine { "ok" } else { &output.text }));
            failed += usize::from(!fine);
        }
    }
    if failed > 0 {
        bail!("{failed} of {count} power cuts left something wrong");
    }
    Ok(())
}

/// Resets the machine under containers of all restart policies.
pub fn reboot(guest: &Guest, payload: &Payload, folder: &Path) -> anyhow::Result<()> {
    let data = folder.join("reboot.disk");
    make_empty_disk(&data, "512M")?;
    let mut hardware = Hardware::new(payload);
    hardware.disks.push(Disk { file: data, serial: "data".to_owned() });
    for script in ["before-reboot.sh", "after-reboot.sh"] {
        let mut machine = Machine::boot(guest, &hardware, folder)?;
        machine.run(&format!("sh /payload/vm/{script}"), LIMIT)?.ok().with_context(|| format!("{script} failed"))?;
        machine.cut()?;
    }
    Ok(())
}

fn copy(from: &Path, to: &PathBuf) -> anyhow::Result<()> {
    run(Command::new("cp").arg("--sparse=always").arg(from).arg(to))
}

/// Returns the last line of the work's own: what it was about to do.
fn last_line(text: &str) -> String {
    let own = |line: &&str| line.split_once(": ").is_some_and(|(round, _)| round.parse::<u32>().is_ok());
    text.lines().rfind(own).unwrap_or_default().to_owned()
}

/// Numbers without order, as moments should be (xorshift; Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn new() -> anyhow::Result<Random> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        Ok(Random(now.as_secs() << 20 | u64::from(now.subsec_micros()) | 1))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
