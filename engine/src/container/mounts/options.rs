//! Mount options as an OCI configuration has them, a list in the manner of `fstab(5)`.

use crate::sys::mount;

/// What a list of mount options means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Mount attributes to set.
    pub set: u64,
    /// Mount attributes to clear.
    pub clear: u64,
    pub bind: bool,
    pub recursive: bool,
    /// Whether a tmpfs begins with what the image has at its place.
    pub copy_up: bool,
    /// `MS_SHARED` and the like, where told.
    pub propagation: Option<u64>,
    /// Whether propagation is for the whole tree.
    pub propagation_recursive: bool,
    /// What is left for the filesystem itself.
    pub data: Vec<(String, Option<String>)>,
}

impl Options {
    /// Reads a list of options.
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a String>) -> Self {
        let mut parsed = Self::default();
        for option in options {
            parsed.add(option);
        }
        parsed
    }

    fn add(&mut self, option: &str) {
        match option {
            // Security labels of SELinux are no options of the kernel.
            "" | "defaults" | "async" | "loud" | "nostrictatime" | "z" | "Z" | "nocopy" | "notmpcopyup" => {}
            "tmpcopyup" => self.copy_up = true,
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "ro" | "rro" => self.attribute(mount::RDONLY, true),
            "rw" | "rrw" => self.attribute(mount::RDONLY, false),
            "nosuid" => self.attribute(mount::NOSUID, true),
            "suid" => self.attribute(mount::NOSUID, false),
            "nodev" => self.attribute(mount::NODEV, true),
            "dev" => self.attribute(mount::NODEV, false),
            "noexec" => self.attribute(mount::NOEXEC, true),
            "exec" => self.attribute(mount::NOEXEC, false),
            "nosymfollow" => self.attribute(mount::NOSYMFOLLOW, true),
            "nodiratime" => self.attribute(mount::NODIRATIME, true),
            "diratime" => self.attribute(mount::NODIRATIME, false),
            "noatime" => self.access_time(mount::NOATIME),
            "strictatime" => self.access_time(mount::STRICTATIME),
            "relatime" | "atime" => self.access_time(mount::RELATIME),
            _ if propagation(option).is_some() => {
                let found = propagation(option);
                self.propagation = found.map(|(kind, _)| kind);
                self.propagation_recursive = found.is_some_and(|(_, recursive)| recursive);
            }
            _ => match option.split_once('=') {
                Some((key, value)) => self.data.push((key.to_owned(), Some(value.to_owned()))),
                None => self.data.push((option.to_owned(), None)),
            },
        }
    }

    /// The last of two contradicting options wins.
    fn attribute(&mut self, bit: u64, on: bool) {
        if on {
            self.set |= bit;
            self.clear &= !bit;
        } else {
            self.set &= !bit;
            self.clear |= bit;
        }
    }

    fn access_time(&mut self, value: u64) {
        // The field as a whole is replaced (mount_setattr(2)).
        self.clear |= mount::ATIME;
        self.set = self.set & !mount::ATIME | value;
    }

    /// Returns the attributes for a new filesystem, which has none to clear.
    pub fn attributes(&self) -> u64 {
        self.set
    }
}

/// Returns how mounts spread from and to others, such as `MS_SLAVE` (`mount_namespaces(7)`), and whether that is said of
/// a whole tree.
pub fn propagation(name: &str) -> Option<(u64, bool)> {
    let kind = match name.strip_prefix('r').unwrap_or(name) {
        "private" => libc::MS_PRIVATE,
        "shared" => libc::MS_SHARED,
        "slave" => libc::MS_SLAVE,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some((kind, name.starts_with('r')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Options {
        let list: Vec<String> = text.split(',').map(str::to_owned).collect();
        Options::parse(&list)
    }

    #[test]
    fn the_last_of_contradicting_options_wins() {
        let options = parse("ro,nosuid,rw,noatime,strictatime,rbind,rslave,size=65536k,mode=755");
        assert_eq!(options.set, mount::NOSUID | mount::STRICTATIME);
        assert_eq!(options.clear, mount::RDONLY | mount::ATIME);
        assert!(options.bind && options.recursive && options.propagation_recursive);
        assert_eq!(options.propagation, Some(libc::MS_SLAVE));
        let data = [("size".into(), Some("65536k".into())), ("mode".into(), Some("755".into()))];
        assert_eq!(options.data, data);
    }
}
