//! Users and groups as an image names them: its `/etc/passwd` and `/etc/group`, never the host's, by Docker's rules.

use std::path::Path;

use crate::image::{LayerStack, LookupError};

/// Highest id that may be asked for, as in Docker.
const MAX_ID: u32 = i32::MAX.cast_unsigned();

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
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("cannot read the user database of the image")]
    Read(#[from] LookupError),
    #[error("unable to find user {0}: no matching entries in passwd file")]
    User(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    Group(String),
    #[error("uids and gids must be in range 0-{MAX_ID}, got {0}")]
    Range(String),
}

/// What an image or a container has for a user database.
#[derive(Debug, Clone, Default)]
pub struct UserDatabase {
    passwd: String,
    group: String,
}

impl UserDatabase {
    /// Reads it from the directories of a root: the upper directory first if it has one, then the image's layers, topmost
    /// first.
    pub fn read<P: AsRef<Path>>(layers: &[P]) -> Result<Self, LookupError> {
        let stack = LayerStack::open(layers)?;
        Ok(Self { passwd: text(&stack, "/etc/passwd")?, group: text(&stack, "/etc/group")? })
    }

    /// Resolves `user`, `uid`, `user:group`, `uid:gid`, … (empty: root), and further groups by name or number. A number is
    /// an id, also where a user or group is called so.
    pub fn resolve(&self, user: &str, group_add: &[String]) -> Result<ResolvedUser, UserError> {
        let (name, group_name) = user.split_once(':').unwrap_or((user, ""));
        let name = if name.is_empty() { "0" } else { name };
        let number = id(name)?;
        let entry = self.users().find(|entry| number.map_or(entry.name == name, |number| number == entry.uid));
        let uid = match (&entry, number) {
            (Some(entry), _) => entry.uid,
            (None, Some(number)) => number,
            (None, None) => return Err(UserError::User(name.to_owned())),
        };
        let gid = if group_name.is_empty() {
            entry.as_ref().map_or(0, |entry| entry.gid)
        } else {
            self.group_id(group_name)?
        };
        // The own group counts as one of the supplementary ones, or a program could shed it and with it what it is denied
        // (CVE-2022-36109).
        let mut additional_gids = vec![gid];
        // Membership counts only where no group was asked for.
        if let (Some(entry), "") = (&entry, group_name) {
            let own = self.groups().filter(|group| group.members.split(',').any(|member| member == entry.name));
            additional_gids.extend(own.map(|group| group.gid));
        }
        for name in group_add {
            additional_gids.push(self.group_id(name)?);
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

    fn group_id(&self, name: &str) -> Result<u32, UserError> {
        let named = || self.groups().find(|group| group.name == name).map(|group| group.gid);
        id(name)?.or_else(named).ok_or_else(|| UserError::Group(name.to_owned()))
    }

    fn users(&self) -> impl Iterator<Item = User<'_>> {
        self.passwd.lines().filter_map(User::parse)
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.group.lines().filter_map(Group::parse)
    }
}

/// Resolves a user for a container that does not run yet ([`UserDatabase::read`], [`UserDatabase::resolve`]).
pub fn resolve_in_layers<P: AsRef<Path>>(
    layers: &[P],
    user: &str,
    group_add: &[String],
) -> Result<ResolvedUser, UserError> {
    UserDatabase::read(layers)?.resolve(user, group_add)
}

/// Reads a file, or nothing where there is none. An image that has a link to nowhere, a directory, a device or a file
/// without end in its place says with this that it has no such file.
fn text(stack: &LayerStack, path: &str) -> Result<String, LookupError> {
    match stack.read_file(path) {
        Ok(content) => Ok(String::from_utf8_lossy(&content.unwrap_or_default()).into_owned()),
        Err(LookupError::NotAFile { .. } | LookupError::Links { .. } | LookupError::TooLarge { .. }) => {
            Ok(String::new())
        }
        Err(error) => Err(error),
    }
}

/// Reads a number, if it is one; a number out of range is an error, not a name.
fn id(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(UserError::Range(text.to_owned())),
    }
}

/// A line of `passwd(5)`.
struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> User<'a> {
    /// Reads `name:password:uid:gid:comment:home:shell`. Broken lines are passed over.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    }
}

/// A line of `group(5)`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    /// Reads `name:password:gid:member,member`. Broken lines are passed over.
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Self { name, gid, members: fields.next().unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\npostgres:x:70:71::/var/lib/postgresql:/bin/sh\n#\nbad:line\n\
                          1234:x:77:77::/seven:/bin/sh\n";
    const GROUP: &str = "root:x:0:\npostgres:x:71:\nssl:x:101:www,postgres\nwheel:x:10:root,postgres\n55:x:66:\n";

    fn database(passwd: &str, group: &str) -> UserDatabase {
        UserDatabase { passwd: passwd.to_owned(), group: group.to_owned() }
    }

    fn check(user: &str, uid: u32, gid: u32, groups: &[u32], home: &str) {
        let resolved = database(PASSWD, GROUP).resolve(user, &[]).unwrap();
        let want = ResolvedUser { uid, gid, additional_gids: groups.to_vec(), home: home.to_owned() };
        assert_eq!(resolved, want, "{user}");
    }

    #[test]
    fn users_are_those_of_the_image() {
        check("", 0, 0, &[0, 10], "/root");
        check("root", 0, 0, &[0, 10], "/root");
        check("postgres", 70, 71, &[71, 101, 10], "/var/lib/postgresql");
        check("postgres:", 70, 71, &[71, 101, 10], "/var/lib/postgresql");
        check("70", 70, 71, &[71, 101, 10], "/var/lib/postgresql");
        check("postgres:ssl", 70, 101, &[101], "/var/lib/postgresql");
        check("postgres:0", 70, 0, &[0], "/var/lib/postgresql");
        check(":ssl", 0, 101, &[101], "/root");
        check("1000", 1000, 0, &[0], "/");
        check("1000:1001", 1000, 1001, &[1001], "/");
        // Numbers are ids, whoever is called so.
        check("1234", 1234, 0, &[0], "/");
        check("0:55", 0, 55, &[55], "/root");
        let added = database(PASSWD, GROUP).resolve("70", &["55".into(), "ssl".into(), "9".into()]).unwrap();
        assert_eq!(added.additional_gids, [71, 101, 10, 55, 9]);
    }

    proptest::proptest! {
        /// Whatever an image has for a user database, a user is found in it or not, and never one that nobody asked for.
        #[test]
        fn any_database_is_read(
            user in "[a-z0-9:]{0,6}",
            passwd in "([a-z0-9:,\\n]|\\PC){0,80}",
            group in "([a-z0-9:,\\n]|\\PC){0,80}",
        ) {
            if let Ok(found) = database(&passwd, &group).resolve(&user, &[])
                && let Ok(uid) = user.split(':').next().unwrap_or_default().parse::<u32>()
            {
                proptest::prop_assert_eq!(found.uid, uid);
            }
        }
    }

    #[test]
    fn who_does_not_exist_is_named() {
        let fails = |user: &str, group_add: &[String]| {
            database(PASSWD, GROUP).resolve(user, group_add).unwrap_err().to_string()
        };
        assert_eq!(fails("nobody", &[]), "unable to find user nobody: no matching entries in passwd file");
        assert_eq!(fails("0:none", &[]), "unable to find group none: no matching entries in group file");
        assert_eq!(fails("0", &["none".into()]), "unable to find group none: no matching entries in group file");
        assert_eq!(fails("4294967296", &[]), "uids and gids must be in range 0-2147483647, got 4294967296");
        assert!(fails("-1", &[]).contains("range"));
        assert!(fails("0:99999999999", &[]).contains("range"));
        assert!(database("", "").resolve("root", &[]).is_err());
        assert_eq!(database("", "").resolve("7:8", &[]).unwrap().gid, 8);
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
