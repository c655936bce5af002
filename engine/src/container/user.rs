//! Users and groups as an image names them: its `/etc/passwd` and `/etc/group`, never the host's.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};

use super::beneath;

/// The most that is read of a user database, which a hostile image may make as long as it likes.
const LIMIT: u64 = 8 << 20;

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    /// The home directory; `/` where the user database has none.
    pub home: String,
}

/// Why it is not known who a process runs as.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    #[error("cannot read /etc/{name} of the image")]
    Read {
        name: &'static str,
        #[source]
        source: Errno,
    },
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
}

/// Resolves `user`, `uid`, `user:group`, `uid:gid`, … (empty: root) in these databases, and further groups by name or
/// number.
pub fn resolve(user: &str, group_add: &[String], passwd: &str, group: &str) -> Result<ResolvedUser, UserError> {
    let (name, group_name) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let entry = passwd.lines().filter_map(Entry::parse).find(|entry| entry.name == name);
    let number: Option<u32> = name.parse().ok();
    let entry = entry.or_else(|| passwd.lines().filter_map(Entry::parse).find(|entry| number == Some(entry.uid)));
    let uid = match (&entry, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(number)) => number,
        (None, None) => return Err(UserError::User(name.to_owned())),
    };
    let gid = match group_name {
        Some(group_name) => group_id(group_name, group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    // The own group counts as one of the supplementary ones, or a program could shed it and with it what it is denied
    // (CVE-2022-36109).
    let mut additional_gids = vec![gid];
    // Membership counts only where no group was asked for (what runc's user lookup does, and Docker with it).
    if let (Some(entry), None) = (&entry, group_name) {
        for line in group.lines() {
            let mut fields = line.split(':');
            let id = fields.nth(2).and_then(|id| id.parse::<u32>().ok());
            let member = fields.next().is_some_and(|members| members.split(',').any(|member| member == entry.name));
            additional_gids.extend(id.filter(|_| member));
        }
    }
    for name in group_add {
        additional_gids.push(group_id(name, group)?);
    }
    let mut seen = Vec::new();
    additional_gids.retain(|id| {
        let new = !seen.contains(id);
        seen.push(*id);
        new
    });
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(ResolvedUser { uid, gid, additional_gids, home: home.to_owned() })
}

/// Resolves a user for a container that does not run yet, from the directories of its root: the upper directory first
/// if it has one, then the image's layers, topmost first.
pub fn resolve_in_layers(layers: &[PathBuf], user: &str, group_add: &[String]) -> Result<ResolvedUser, UserError> {
    resolve(user, group_add, &in_layers(layers, "passwd")?, &in_layers(layers, "group")?)
}

/// Reads a file of `/etc` inside a root, or nothing where there is no such file.
pub fn database(root: BorrowedFd<'_>, name: &'static str) -> Result<String, UserError> {
    let failed =
        |error: std::io::Error| UserError::Read { name, source: Errno::from_raw(error.raw_os_error().unwrap_or(0)) };
    let mut text = Vec::new();
    match open_regular(root, &Path::new("/etc").join(name)) {
        Ok(file) => file.take(LIMIT).read_to_end(&mut text).map_err(failed)?,
        Err(errno) if is_absent(errno) => return Ok(String::new()),
        Err(source) => return Err(UserError::Read { name, source }),
    };
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether an image says with this that it has no such file: whatever it puts in its place, it cannot lead anywhere else.
fn is_absent(errno: Errno) -> bool {
    use Errno::{EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, EXDEV};
    matches!(errno, ENOENT | ENOTDIR | ELOOP | ENXIO | ENAMETOOLONG | EXDEV | EINVAL)
}

/// Opens a file to read it, if it is a regular one. An image may have a FIFO in its place, which would block, or a device,
/// which may do anything when it is opened (rewind a tape, arm a watchdog), so first it is looked at.
fn open_regular(root: BorrowedFd<'_>, path: &Path) -> nix::Result<std::fs::File> {
    let found = beneath::open(root, path, OFlag::O_PATH)?;
    if fstat(&found)?.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Errno::EINVAL);
    }
    // Not through `/proc`, which is the container's own where this runs inside. What has taken the file's place in the
    // meantime is opened within the container's own limits, if it runs.
    let file = beneath::open(root, path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
    if fstat(&file)?.st_mode & libc::S_IFMT == libc::S_IFREG { Ok(file.into()) } else { Err(Errno::EINVAL) }
}

/// Reads `/etc/<name>` as the overlay of these directories would show it, without mounting it.
fn in_layers(layers: &[PathBuf], name: &'static str) -> Result<String, UserError> {
    let failed = |source| UserError::Read { name, source };
    for layer in layers {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = match nix::fcntl::open(layer, flags, Mode::empty()) {
            Ok(root) => root,
            Err(errno) if is_absent(errno) => continue,
            Err(source) => return Err(failed(source)),
        };
        let path = Path::new("/etc").join(name);
        match beneath::open(&root, &path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
            Ok(found) => {
                let status = nix::sys::stat::fstat(&found).map_err(failed)?;
                // A character device 0:0 is the overlay's mark of a file that was removed.
                if status.st_mode & libc::S_IFMT == libc::S_IFCHR && status.st_rdev == 0 {
                    return Ok(String::new());
                }
                return database(root.as_fd(), name);
            }
            // `/etc` is no directory here: nothing below shows through.
            Err(Errno::ENOTDIR) => return Ok(String::new()),
            Err(errno) if is_absent(errno) => {}
            Err(source) => return Err(failed(source)),
        }
    }
    Ok(String::new())
}

fn group_id(name: &str, group: &str) -> Result<u32, UserError> {
    let mut entries = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let entry = entries.find(|fields| fields.len() >= 3 && fields[0] == name);
    let id = entry.and_then(|fields| fields[2].parse().ok());
    id.or_else(|| name.parse().ok()).ok_or_else(|| UserError::Group(name.to_owned()))
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self { name, uid, gid, home })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\npostgres:x:70:71::/var/lib/postgresql:/bin/sh\n#\nbad:line\n";
    const GROUP: &str = "root:x:0:\npostgres:x:71:\nssl:x:101:www,postgres\nwheel:x:10:root,postgres\n";

    fn check(user: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let resolved = resolve(user, &[], PASSWD, GROUP).unwrap();
        let want = ResolvedUser { uid, gid, additional_gids: groups.to_vec(), home: home.to_owned() };
        assert_eq!(resolved, want, "{user}");
    }

    #[test]
    fn users_are_those_of_the_image() {
        check("", 0, 0, &[0, 10], "/root");
        check("postgres", 70, 71, &[71, 101, 10], "/var/lib/postgresql");
        check("70", 70, 71, &[71, 101, 10], "/var/lib/postgresql");
        check("postgres:ssl", 70, 101, &[101], "/var/lib/postgresql");
        check("1000", 1000, 0, &[0], "/");
        check("1000:1001", 1000, 1001, &[1001], "/");
    }

    proptest::proptest! {
        /// Whatever an image has for a user database, a user is found in it or not, and never one that nobody asked for.
        #[test]
        fn any_database_is_read(
            user in "[a-z0-9:]{0,6}",
            passwd in "([a-z0-9:,\\n]|\\PC){0,80}",
            group in "([a-z0-9:,\\n]|\\PC){0,80}",
        ) {
            if let Ok(found) = resolve(&user, &[], &passwd, &group)
                && let Ok(uid) = user.split(':').next().unwrap_or_default().parse::<u32>()
                && !passwd.lines().any(|line| line.split(':').next() == user.split(':').next())
            {
                proptest::prop_assert_eq!(found.uid, uid);
            }
        }
    }

    #[test]
    fn who_does_not_exist_is_named() {
        assert_eq!(resolve("nobody", &[], PASSWD, GROUP), Err(UserError::User("nobody".into())));
        assert_eq!(resolve("0:none", &[], PASSWD, GROUP), Err(UserError::Group("none".into())));
        assert_eq!(resolve("0", &["none".into()], PASSWD, GROUP), Err(UserError::Group("none".into())));
    }

    #[test]
    fn the_topmost_layer_that_has_a_file_wins() {
        let directory = tempfile::tempdir().unwrap();
        let (top, bottom) = (directory.path().join("top"), directory.path().join("bottom"));
        std::fs::create_dir_all(top.join("usr")).unwrap();
        std::fs::create_dir_all(bottom.join("etc")).unwrap();
        std::fs::write(bottom.join("etc/passwd"), PASSWD).unwrap();
        let layers = [top.clone(), bottom];
        assert_eq!(resolve_in_layers(&layers, "postgres", &[]).unwrap().uid, 70);
        std::fs::create_dir_all(top.join("etc")).unwrap();
        std::fs::write(top.join("etc/passwd"), "postgres:x:5:5:::\n").unwrap();
        assert_eq!(resolve_in_layers(&layers, "postgres", &[]).unwrap().uid, 5);
    }
}
