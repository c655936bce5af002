//! Which platforms' programs this machine runs: its own, and those that a handler is registered for (`binfmt_misc`).

use std::fs;
use std::path::Path;

use rcompose_engine::image::Platform;

/// Where the kernel lists the handlers (kernel documentation, `admin-guide/binfmt-misc`).
const HANDLERS: &str = "/proc/sys/fs/binfmt_misc";

/// The number of each architecture in an ELF header (`e_machine`), and of its class: 1 for 32, 2 for 64 bits.
const MACHINES: [(&str, u8, [u8; 2]); 11] = [
    ("386", 1, [0x03, 0]),
    ("amd64", 2, [0x3e, 0]),
    ("arm", 1, [0x28, 0]),
    ("arm64", 2, [0xb7, 0]),
    ("loong64", 2, [0x02, 0x01]),
    ("mips64le", 2, [0x08, 0]),
    ("mipsle", 1, [0x08, 0]),
    ("ppc64", 2, [0, 0x15]),
    ("ppc64le", 2, [0x15, 0]),
    ("riscv64", 2, [0xf3, 0]),
    ("s390x", 2, [0, 0x16]),
];

/// Returns whether programs of a platform run here.
pub fn runs(platform: &Platform) -> bool {
    let host = Platform::host();
    let native = match host.architecture.as_str() {
        "amd64" => ["amd64", "386"].contains(&platform.architecture.as_str()),
        "arm64" => ["arm64", "arm"].contains(&platform.architecture.as_str()),
        own => own == platform.architecture,
    };
    platform.os == host.os && (native || handlers(Path::new(HANDLERS)).any(|text| handles(&text, platform)))
}

/// Returns what the kernel says of each handler; nothing where there is no `binfmt_misc`.
fn handlers(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    // `register` cannot be read, and `status` says something else.
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok())
}

/// Returns whether a handler is enabled and takes ELF files of a platform.
fn handles(handler: &str, platform: &Platform) -> bool {
    let Some((_, class, machine)) = MACHINES.iter().find(|(name, ..)| *name == platform.architecture) else {
        return false;
    };
    let field = |name: &str| handler.lines().find_map(|line| line.strip_prefix(name));
    let magic = field("magic ").unwrap_or_default();
    let byte = |at: usize| u8::from_str_radix(magic.get(2 * at..2 * at + 2)?, 16).ok();
    let is_elf = field("offset ") == Some("0") && magic.starts_with("7f454c46");
    handler.starts_with("enabled") && is_elf && byte(4) == Some(*class) && [byte(18), byte(19)] == machine.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_are_known_by_what_they_take() {
        let arm64 = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: F\noffset 0\n\
                     magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        assert!(handles(arm64, &platform("linux/arm64")));
        assert!(!handles(arm64, &platform("linux/riscv64")));
        assert!(!handles(arm64, &platform("linux/pdp11")));
        assert!(!handles(&arm64.replace("enabled", "disabled"), &platform("linux/arm64")));
        assert!(!handles("enabled\ninterpreter /bin/x\nextension .exe\n", &platform("linux/arm64")));
    }

    #[test]
    fn this_machine_runs_its_own() {
        assert!(runs(&Platform::host()));
        assert!(!runs(&"linux/pdp11".parse().unwrap()));
        assert!(!runs(&format!("plan9/{}", Platform::host().architecture).parse().unwrap()));
    }
}
