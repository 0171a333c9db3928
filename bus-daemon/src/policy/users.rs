//! Users and groups: names and numbers, and who is who.

use std::ffi::CString;
use std::fmt;

use bus_core::control::Connection;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use toml::de::DeValue;

use super::reader::{Reader, Table, Value, number, shown};

/// A user, with the groups that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The user.
    pub uid: u32,
    /// The groups.
    pub groups: Vec<u32>,
}

impl Subject {
    /// Who is at the other end of a connection, as the kernel says.
    ///
    /// # Errors
    /// As for [`Connection::groups`].
    pub fn of_peer(connection: &Connection) -> bus_core::Result<Self> {
        Ok(Self {
            uid: connection.credentials()?.uid,
            groups: connection.groups()?,
        })
    }

    /// A user of this machine by its name or number, with the groups that the machine's files give it. None where there is no user of
    /// this name; a number needs no name, and then has no groups.
    pub fn find(user: &str) -> Option<Self> {
        let known = match user.parse() {
            Ok(uid) => {
                let Some(known) = User::from_uid(Uid::from_raw(uid)).ok().flatten() else {
                    return Some(Self {
                        uid,
                        groups: Vec::new(),
                    });
                };
                known
            }
            Err(_) => User::from_name(user).ok().flatten()?,
        };
        let name = CString::new(known.name).ok()?;
        let groups = getgrouplist(&name, known.gid).unwrap_or_else(|_| vec![known.gid]);
        Some(Self {
            uid: known.uid.as_raw(),
            groups: groups.into_iter().map(Gid::as_raw).collect(),
        })
    }
}

/// The user's name with its number, or the number alone where it has no name.
pub fn user_name(uid: u32) -> String {
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => format!("{} ({uid})", user.name),
        _ => uid.to_string(),
    }
}

/// The group's name with its number, or the number alone where it has no name.
pub fn group_name(gid: u32) -> String {
    match Group::from_gid(Gid::from_raw(gid)) {
        Ok(Some(group)) => format!("{} ({gid})", group.name),
        _ => gid.to_string(),
    }
}

/// Who a rule is about: users, and groups of users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Who {
    users: Vec<u32>,
    groups: Vec<u32>,
}

impl Who {
    /// The keys that name users.
    pub(super) const KEYS: [&str; 2] = ["users", "groups"];

    /// Reads `users` and `groups`, of which there is at least one.
    pub(super) fn read(reader: &mut Reader<'_>, table: &Table<'_, '_>) -> Self {
        let users = read_users(reader, table);
        let groups = reader.list(table, "groups", |reader, value| {
            let found = |name: &str| Group::from_name(name).ok().flatten();
            id(reader, value, "group", |name| {
                Some(found(name)?.gid.as_raw())
            })
        });
        if users.is_none() && groups.is_none() {
            reader.missing(table, "`users` and no `groups`: name who it is for");
        }
        Self {
            users: users.unwrap_or_default(),
            groups: groups.unwrap_or_default(),
        }
    }

    /// Whether it is about this one.
    pub fn includes(&self, subject: &Subject) -> bool {
        self.users.contains(&subject.uid) || subject.groups.iter().any(|g| self.groups.contains(g))
    }

    /// Whether it is about anybody but this user.
    pub fn includes_others(&self, uid: u32) -> bool {
        !self.groups.is_empty() || self.users.iter().any(|user| *user != uid)
    }
}

impl fmt::Display for Who {
    /// Names with numbers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.users.iter().map(|uid| user_name(*uid));
        let groups = self
            .groups
            .iter()
            .map(|gid| format!("group {}", group_name(*gid)));
        let all: Vec<_> = users.chain(groups).collect();
        f.write_str(&all.join(", "))
    }
}

/// Reads `users`, if it is there.
pub(super) fn read_users(reader: &mut Reader<'_>, table: &Table<'_, '_>) -> Option<Vec<u32>> {
    reader.list(table, "users", |reader, value| {
        let found = |name: &str| User::from_name(name).ok().flatten();
        id(reader, value, "user", |name| {
            Some(found(name)?.uid.as_raw())
        })
    })
}

fn id(
    reader: &mut Reader<'_>,
    value: &Value<'_>,
    kind: &str,
    find: impl Fn(&str) -> Option<u32>,
) -> Option<u32> {
    let at = value.span().start;
    if let DeValue::String(name) = value.get_ref() {
        let found = find(name);
        if found.is_none() {
            let what = format!(
                "there is no {kind} {} on this machine; use a name that it knows, or a number",
                shown(value.get_ref())
            );
            reader.wrong(at, what);
        }
        return found;
    }
    // The highest number means nobody to the kernel.
    let given = number(value.get_ref()).filter(|id| *id < u64::from(u32::MAX));
    if given.is_none() {
        let what = format!(
            "{} is no {kind}; use a name, or a number from 0 to {}",
            shown(value.get_ref()),
            u32::MAX - 1
        );
        reader.wrong(at, what);
    }
    given.map(|id| id as u32)
}
