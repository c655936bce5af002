//! Resolves `user: …` against the image's own `/etc/passwd` and `/etc/group`, by Docker's rules.
//!
//! The host's users have nothing to do with it, and a static binary has no NSS anyway.

use std::path::Path;

use super::lookup::{LayerStack, LookupError};

/// Highest id that may be asked for, as in Docker.
const MAX_ID: u32 = i32::MAX.cast_unsigned();

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Ids of the groups that list the user as a member.
    pub additional_gids: Vec<u32>,
    /// Home directory.
    pub home: String,
    /// The user's name, if it is in the image's `/etc/passwd`.
    pub name: Option<String>,
}

/// Why a user or group cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name is not in `/etc/passwd`.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// The name is not in `/etc/group`.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number is beyond what the kernel takes.
    #[error("uids and gids must be in range 0-{MAX_ID}, got {0}")]
    Range(String),
    /// The files could not be read.
    #[error(transparent)]
    Lookup(#[from] LookupError),
}

/// Resolves `""`, `user`, `uid`, `user:group`, `uid:gid` and so on against layer directories, topmost first.
pub fn resolve_user<P: AsRef<Path>>(layers: &[P], specification: &str) -> Result<User, UserError> {
    let stack = LayerStack::open(layers)?;
    let passwd = read_text(&stack, "/etc/passwd")?;
    let group = read_text(&stack, "/etc/group")?;
    resolve(&passwd, &group, specification)
}

/// Resolves one group, by name or number, against layer directories, topmost first (`group_add`).
pub fn resolve_group<P: AsRef<Path>>(layers: &[P], specification: &str) -> Result<u32, UserError> {
    let group = read_text(&LayerStack::open(layers)?, "/etc/group")?;
    find_group(&group, specification)
}

fn read_text(stack: &LayerStack, path: &str) -> Result<String, UserError> {
    // Images from scratch have neither file; numbers still work.
    let content = stack.read_file(path)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&content).into_owned())
}

fn resolve(passwd: &str, group: &str, specification: &str) -> Result<User, UserError> {
    let (user, group_name) = specification.split_once(':').unwrap_or((specification, ""));
    let number = parse_id(user)?;
    let wanted = if user.is_empty() { Some(0) } else { number };
    let entry = passwd.lines().filter_map(PasswdEntry::parse).find(|entry| {
        // A name that looks like a number still is a name first.
        (!user.is_empty() && entry.name == user) || wanted == Some(entry.uid)
    });
    let (uid, mut gid, home, name) = match (&entry, wanted) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home.to_owned(), Some(entry.name.to_owned())),
        (None, Some(uid)) => (uid, 0, String::new(), None),
        (None, None) => return Err(UserError::UnknownUser(user.to_owned())),
    };
    let mut additional_gids = Vec::new();
    if !group_name.is_empty() {
        gid = find_group(group, group_name)?;
    } else if let Some(name) = &name {
        additional_gids = group
            .lines()
            .filter_map(GroupEntry::parse)
            .filter(|entry| entry.members.split(',').any(|member| member == name))
            .map(|entry| entry.gid)
            .collect();
    }
    let home = if home.is_empty() { "/".to_owned() } else { home };
    Ok(User { uid, gid, additional_gids, home, name })
}

fn find_group(group: &str, wanted: &str) -> Result<u32, UserError> {
    let number = parse_id(wanted)?;
    group
        .lines()
        .filter_map(GroupEntry::parse)
        .find(|entry| entry.name == wanted || number == Some(entry.gid))
        .map(|entry| entry.gid)
        .or(number)
        .ok_or_else(|| UserError::UnknownGroup(wanted.to_owned()))
}

/// Reads a number, if it is one; a number out of range is an error, not a name.
fn parse_id(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(UserError::Range(text.to_owned())),
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    /// Reads `name:password:uid:gid:comment:home:shell`. Broken lines are passed over.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    }
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    /// Reads `name:password:gid:member,member`. Broken lines are passed over.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Self { name, gid, members: fields.next().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\npostgres:x:999:998:,,,:/var/lib/postgresql:/bin/sh\n\
                          1234:x:77:77::/seven:/bin/sh\n";
    const GROUP: &str = "root:x:0:\npostgres:x:998:\nssl-cert:x:101:postgres,www\nextra:x:50:root,postgres\n";

    fn check(specification: &str, uid: u32, gid: u32, additional: &[u32], home: &str) {
        let user = resolve(PASSWD, GROUP, specification).unwrap_or_else(|error| panic!("{specification}: {error}"));
        assert_eq!(
            (user.uid, user.gid, user.additional_gids.as_slice(), user.home.as_str()),
            (uid, gid, additional, home)
        );
    }

    #[test]
    fn dockers_rules() {
        check("", 0, 0, &[50], "/root");
        check("root", 0, 0, &[50], "/root");
        check("0", 0, 0, &[50], "/root");
        check("postgres", 999, 998, &[101, 50], "/var/lib/postgresql");
        check("999", 999, 998, &[101, 50], "/var/lib/postgresql");
        check("postgres:ssl-cert", 999, 101, &[], "/var/lib/postgresql");
        check("postgres:0", 999, 0, &[], "/var/lib/postgresql");
        check("5000", 5000, 0, &[], "/");
        check("5000:6000", 5000, 6000, &[], "/");
        check("1234", 77, 77, &[], "/seven");
        check(":ssl-cert", 0, 101, &[], "/root");
        check("postgres:", 999, 998, &[101, 50], "/var/lib/postgresql");
    }

    #[test]
    fn unknown_names_and_numbers_out_of_range_are_named() {
        let fails = |specification: &str| resolve(PASSWD, GROUP, specification).unwrap_err().to_string();
        assert_eq!(fails("nobody"), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(fails("root:wheel"), "unable to find group wheel: no matching entries in group file");
        assert!(fails("4294967296").contains("0-2147483647"));
        assert!(fails("-1").contains("range"));
        assert!(fails("0:99999999999").contains("range"));
    }

    #[test]
    fn without_files_only_numbers_work() {
        assert_eq!(resolve("", "", "").unwrap().uid, 0);
        assert_eq!(resolve("", "", "7:8").unwrap().gid, 8);
        assert!(resolve("", "", "root").is_err());
    }

    proptest! {
        #[test]
        fn any_files_end_in_a_result(passwd in ".{0,200}", group in ".{0,200}", specification in ".{0,20}") {
            let _ = resolve(&passwd, &group, &specification);
        }
    }
}
