//! Who may do what through the admin socket. Owns nothing; asked once for each
//! client, by its thread, and once for each request.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::unistd::{Group, geteuid};
use rustix::net::sockopt::socket_peercred;

use crate::api::rpc::{self, Error};
use crate::config::Runtime;

/// What a client may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Everything.
    Write,
    /// Look.
    Read,
}

/// A group of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Named {
    name: String,
    id: u32,
}

/// The groups that may use the socket. Where there is none, whoever can open
/// the socket file may do everything.
#[derive(Clone, Debug)]
pub struct Access {
    write: Option<Named>,
    read: Option<Named>,
    /// Supplementary groups of whoever connected.
    groups_of: fn(&UnixStream) -> io::Result<Vec<u32>>,
}

impl Access {
    /// Whoever can open the socket file: root and the file's group.
    pub fn open() -> Self {
        Self {
            write: None,
            read: None,
            groups_of: |_| Ok(Vec::new()),
        }
    }

    /// The groups of the configuration. `groups_of` tells a peer's
    /// supplementary groups.
    ///
    /// # Errors
    /// One line that names the key of a group that the host does not have.
    pub fn new(
        runtime: &Runtime,
        groups_of: fn(&UnixStream) -> io::Result<Vec<u32>>,
    ) -> Result<Self, String> {
        Ok(Self {
            write: group("socket-group", runtime.socket_group.as_deref())?,
            read: group("socket-read-group", runtime.socket_read_group.as_deref())?,
            groups_of,
        })
    }

    /// Gives the socket file to whom it is for. With two groups everybody may
    /// open it, and is asked who they are.
    pub(crate) fn give(&self, path: &Path) -> io::Result<()> {
        let (group, mode) = match (&self.write, &self.read) {
            (None, None) => (None, 0o660),
            (Some(one), None) | (None, Some(one)) => (Some(one.id), 0o660),
            (Some(_), Some(_)) => (None, 0o666),
        };
        if group.is_some() {
            std::os::unix::fs::chown(path, None, group)?;
        }
        fs::set_permissions(path, PermissionsExt::from_mode(mode))
    }

    /// What the client at the other end may do.
    pub(crate) fn role(&self, stream: &UnixStream) -> Result<Role, Error> {
        if self.write.is_none() && self.read.is_none() {
            return Ok(Role::Write);
        }
        let unknown = |what: &str| Error::new(rpc::FORBIDDEN, format!("{what}: who asks?"));
        let peer = socket_peercred(stream).map_err(|error| unknown(&error.to_string()))?;
        let user = peer.uid.as_raw();
        let mut groups = (self.groups_of)(stream).map_err(|error| unknown(&error.to_string()))?;
        groups.push(peer.gid.as_raw());
        self.role_of(user, &groups)
    }

    fn role_of(&self, user: u32, groups: &[u32]) -> Result<Role, Error> {
        let is_in = |group: &Option<Named>| group.as_ref().is_some_and(|g| groups.contains(&g.id));
        if user == 0 || user == geteuid().as_raw() || is_in(&self.write) {
            return Ok(Role::Write);
        }
        if is_in(&self.read) {
            return Ok(Role::Read);
        }
        let named = [&self.write, &self.read].into_iter().flatten();
        let names: Vec<&str> = named.map(|group| group.name.as_str()).collect();
        Err(Error::new(
            rpc::FORBIDDEN,
            format!(
                "user {user} may not use the admin socket: be root, or a member of group {}",
                names.join(" or ")
            ),
        ))
    }

    /// Whether a client may call a method.
    pub(crate) fn allows(&self, role: Role, method: &str) -> Result<(), Error> {
        if role == Role::Write || only_looks(method) {
            return Ok(());
        }
        let remedy = match &self.write {
            Some(group) => format!("be root, or a member of group {}", group.name),
            None => "be root".to_owned(),
        };
        let shown: String = method.chars().take(64).collect();
        Err(Error::new(
            rpc::FORBIDDEN,
            format!("{shown:?} does more than look, which is all you may: {remedy}"),
        ))
    }
}

/// Methods that change nothing, and show nothing but what the gateway itself
/// has: no files, no packets.
fn only_looks(method: &str) -> bool {
    method.ends_with(".list")
        || matches!(method, "ping" | "version" | "config.get" | "flow.explain")
}

fn group(key: &str, wanted: Option<&str>) -> Result<Option<Named>, String> {
    let Some(name) = wanted else { return Ok(None) };
    let found = Group::from_name(name)
        .map_err(|error| format!("runtime.{key}: {name}: {error}"))?
        .ok_or_else(|| {
            format!(
                "runtime.{key}: there is no group {name:?}; make it (groupadd --system {name}), \
                 or name another"
            )
        })?;
    Ok(Some(Named {
        name: name.to_owned(),
        id: found.gid.as_raw(),
    }))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn named(name: &str, id: u32) -> Option<Named> {
        let name = name.to_owned();
        Some(Named { name, id })
    }

    fn both() -> Access {
        Access {
            write: named("operators", 7),
            read: named("watchers", 8),
            ..Access::open()
        }
    }

    #[test]
    fn groups_decide() {
        let access = both();
        let user = geteuid().as_raw() + 1;
        for (user, groups, expected) in [
            (0, &[][..], Ok(Role::Write)),
            (geteuid().as_raw(), &[9], Ok(Role::Write)),
            (user, &[9, 7], Ok(Role::Write)),
            (user, &[8, 7], Ok(Role::Write)),
            (user, &[8], Ok(Role::Read)),
            (user, &[9], Err(rpc::FORBIDDEN)),
        ] {
            let role = access.role_of(user, groups);
            assert_eq!(role.map_err(|error| error.code), expected, "{groups:?}");
        }
        let refused = access.role_of(user, &[]).expect_err("a stranger");
        assert!(
            refused.message.ends_with("group operators or watchers"),
            "{refused}"
        );
    }

    #[test]
    fn who_looks_may_only_look() {
        let access = both();
        let mut allowed = Vec::new();
        for method in crate::api::METHODS {
            assert!(access.allows(Role::Write, method).is_ok());
            match access.allows(Role::Read, method) {
                Ok(()) => allowed.push(method),
                Err(error) => {
                    assert_eq!(error.code, rpc::FORBIDDEN);
                    assert!(error.message.contains("group operators"), "{error}");
                }
            }
        }
        for method in [
            "reload",
            "server.drain",
            "service.add",
            "config.diff",
            "config.check",
            "drops.last",
            "capture.start",
            "capture.read",
        ] {
            assert!(!allowed.contains(&method), "{method}");
        }
        for method in [
            "ping",
            "services.list",
            "connections.list",
            "config.get",
            "flow.explain",
        ] {
            assert!(allowed.contains(&method), "{method}");
        }
    }

    #[test]
    fn the_socket_file_goes_to_its_group() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        fs::write(&path, "").expect("written");
        let mode = || fs::metadata(&path).expect("metadata").permissions().mode() & 0o777;
        for (access, expected) in [(Access::open(), 0o660), (both(), 0o666)] {
            access.give(&path).expect("given");
            assert_eq!(mode(), expected);
        }
        let missing = group("socket-group", Some("no-such-group")).expect_err("missing");
        assert!(missing.contains("groupadd"), "{missing}");
        let root = group("socket-group", Some("root")).expect("root");
        assert_eq!(root, named("root", 0));
    }
}
