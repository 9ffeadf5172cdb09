//! Giving up root: whom the process becomes once its addresses are bound, for good.
//!
//! Addresses come first, as ports below 1024 need what is given up; everything that a reload reads again comes after
//! it, so that a key that only root can read is found at the start, with its place in the configuration.
//!
//! The whole process changes, whatever threads it has: the C library's functions, unlike the system calls under
//! them, reach every thread (nptl(7)). User, group and the user's supplementary groups change, saved ids
//! included; that nothing leads back is tried. Without root nobody is become: it is an error, unless the process
//! already is who it should be.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::ptr;

use libc::{gid_t, uid_t};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, chownat, fstat, openat};
use rustix::process::{DumpableBehavior, Gid, Uid, geteuid, set_dumpable_behavior};

use crate::config::Diagnostic;
use crate::config::model::{Account, Located};

/// A user that the system knows, with the group to go with it.
#[derive(Debug)]
pub struct Identity {
    name: CString,
    user: uid_t,
    group: gid_t,
    home: PathBuf,
}

/// Whether the process may do everything.
pub fn is_root() -> bool {
    geteuid().is_root()
}

impl Identity {
    /// Looks the names up, wherever the system has its users from; may wait for a directory service.
    ///
    /// # Errors
    /// A name that nobody has, or a service that does not answer, with its place in the configuration.
    pub fn find(account: &Account) -> Result<Identity, Box<Diagnostic>> {
        let user = &account.user;
        let nobody = |what: &str, name: &Located<String>, hint: Option<String>| {
            let message = format!("there is no {what} `{}`", name.value);
            Box::new(Diagnostic::error(name.span.clone(), message).hint(hint))
        };
        let hint = format!("`useradd --system {}` makes one", user.value);
        let mut identity = user_named(&user.value)
            .map_err(|error| unanswered(user, &error))?
            .ok_or_else(|| nobody("user", user, Some(hint)))?;
        if let Some(group) = &account.group {
            identity.group = group_named(&group.value)
                .map_err(|error| unanswered(group, &error))?
                .ok_or_else(|| nobody("group", group, None))?;
        }
        Ok(identity)
    }

    /// The user's home folder, which need not be there.
    pub fn home(&self) -> PathBuf {
        self.home.clone()
    }

    /// Makes this user the owner of a unix socket's file, so that its mode is about whom the process becomes.
    ///
    /// # Errors
    /// Without root, or where there is no socket any more.
    pub fn own_socket(&self, path: &Path) -> io::Result<()> {
        // Whoever may write in the folder could have put something else in its place by now.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(CWD, path, flags, Mode::empty())?;
        if !FileType::from_raw_mode(fstat(&file)?.st_mode).is_socket() {
            return Err(io::Error::other("it is no socket any more"));
        }
        let (user, group) = (Uid::from_raw(self.user), Gid::from_raw(self.group));
        Ok(chownat(
            &file,
            c"",
            Some(user),
            Some(group),
            AtFlags::EMPTY_PATH,
        )?)
    }

    /// Becomes this user, with all threads, and for good.
    ///
    /// # Errors
    /// Without root; or where the system refuses, half-way perhaps: the process must end then.
    pub fn assume(&self) -> io::Result<()> {
        if self.is_ours() {
            return Ok(());
        }
        if !is_root() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "only root can become another user",
            ));
        }
        self.set_ids()?;
        if !self.is_ours() {
            return Err(io::Error::other("the system kept some of the old ids"));
        }
        // Who changed its ids may not look at its own /proc any more, which is where the plugin host finds out
        // what to clean. Whoever may look now is this user, as if it had started the process itself.
        set_dumpable_behavior(DumpableBehavior::Dumpable)?;
        Ok(())
    }

    /// Real, effective and saved ids: from any of them there is a way back.
    #[expect(unsafe_code, reason = "the standard library knows no ids")]
    fn is_ours(&self) -> bool {
        let (mut users, mut groups) = ([KEEP; 3], [KEEP; 3]);
        let [real, effective, saved] = &mut users;
        // SAFETY: it writes the three numbers that it is given places of, and reads nothing.
        let known = unsafe { libc::getresuid(real, effective, saved) } == 0;
        let [real, effective, saved] = &mut groups;
        // SAFETY: likewise.
        let known = known && unsafe { libc::getresgid(real, effective, saved) } == 0;
        known && users == [self.user; 3] && groups == [self.group; 3]
    }

    #[expect(
        unsafe_code,
        reason = "the standard library changes the ids of children only"
    )]
    fn set_ids(&self) -> io::Result<()> {
        let done = |result: libc::c_int| match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        };
        // SAFETY: the name is a string of C's that lives through the call; the others take numbers. The groups come
        // first, since root is needed for them.
        unsafe {
            done(libc::initgroups(self.name.as_ptr(), self.group))?;
            done(libc::setresgid(self.group, self.group, self.group))?;
            done(libc::setresuid(self.user, self.user, self.user))?;
        }
        // SAFETY: it takes numbers only.
        if self.user != 0 && unsafe { libc::setresuid(KEEP, 0, KEEP) } == 0 {
            return Err(io::Error::other("the way back to root stayed open"));
        }
        Ok(())
    }
}

fn unanswered(name: &Located<String>, error: &io::Error) -> Box<Diagnostic> {
    let message = format!("cannot look up `{}`: {error}", name.value);
    Box::new(Diagnostic::error(name.span.clone(), message))
}

#[expect(
    unsafe_code,
    reason = "only the C library asks all of the system's services"
)]
fn user_named(name: &str) -> io::Result<Option<Identity>> {
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    with_room(|room| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: the name is a string of C's, the pointers are to room of ours of the sizes that are told, and all of
        // it lives through the call.
        let error = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                room.as_mut_ptr(),
                room.len(),
                &raw mut found,
            )
        };
        if error != 0 || found.is_null() {
            return (error, None);
        }
        // SAFETY: no error and a result: `entry` is filled in, and its strings are in `room`.
        let (user, group, home) = unsafe {
            let entry = entry.assume_init();
            (entry.pw_uid, entry.pw_gid, CStr::from_ptr(entry.pw_dir))
        };
        let identity = Identity {
            name: name.clone(),
            user,
            group,
            home: PathBuf::from(OsStr::from_bytes(home.to_bytes())),
        };
        (0, Some(identity))
    })
}

#[expect(
    unsafe_code,
    reason = "only the C library asks all of the system's services"
)]
fn group_named(name: &str) -> io::Result<Option<gid_t>> {
    let Ok(name) = CString::new(name) else {
        return Ok(None);
    };
    with_room(|room| {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut found = ptr::null_mut();
        // SAFETY: as in `user_named`.
        let error = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                room.as_mut_ptr(),
                room.len(),
                &raw mut found,
            )
        };
        // SAFETY: no error and a result: `entry` is filled in.
        let group =
            (error == 0 && !found.is_null()).then(|| unsafe { entry.assume_init_ref().gr_gid });
        (error, group)
    })
}

/// Asks with more and more room for the strings of the answer. An error number that POSIX has for a name that
/// nobody has is no error.
fn with_room<T>(
    mut ask: impl FnMut(&mut [libc::c_char]) -> (libc::c_int, Option<T>),
) -> io::Result<Option<T>> {
    let mut room = vec![0; FIRST_ROOM];
    loop {
        match ask(&mut room) {
            (libc::ERANGE, _) if room.len() < MOST_ROOM => room.resize(room.len() * 4, 0),
            (libc::EINTR, _) => {}
            (0 | libc::ENOENT | libc::ESRCH, found) => return Ok(found),
            (error, _) => return Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// Of setresuid(2): this id stays; nobody has it.
const KEEP: uid_t = uid_t::MAX;
/// For the strings of an entry; a group has its members among them.
const FIRST_ROOM: usize = 1 << 10;
const MOST_ROOM: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn account(user: &str, group: Option<&str>) -> Account {
        let located = |text: &str| Located {
            value: text.to_owned(),
            span: 0..0,
        };
        Account {
            user: located(user),
            group: group.map(located),
        }
    }

    #[test]
    fn names_are_looked_up() {
        let root = Identity::find(&account("root", None)).unwrap();
        assert_eq!((root.user, root.group), (0, 0));
        assert_eq!(root.home(), PathBuf::from("/root"));
        let other = Identity::find(&account("root", Some("daemon"))).unwrap();
        assert_eq!(other.user, 0);
        assert_ne!(other.group, 0);
    }

    #[test]
    fn a_name_that_nobody_has_is_told() {
        for (user, group, message) in [
            ("no-such-user", None, "there is no user `no-such-user`"),
            ("nul\0", None, "there is no user `nul\0`"),
            ("", None, "there is no user ``"),
            (
                "root",
                Some("no-such-group"),
                "there is no group `no-such-group`",
            ),
        ] {
            let error = Identity::find(&account(user, group)).unwrap_err();
            assert_eq!(error.message, message);
        }
    }

    #[test]
    fn room_grows_until_it_is_enough_and_not_for_ever() {
        let mut sizes = Vec::new();
        let found = with_room(|room| {
            sizes.push(room.len());
            match room.len() {
                0..10_000 => (libc::ERANGE, None),
                _ => (0, Some(7)),
            }
        });
        assert_eq!(found.unwrap(), Some(7));
        assert_eq!(sizes, [1 << 10, 1 << 12, 1 << 14]);
        let full: io::Result<Option<()>> = with_room(|_| (libc::ERANGE, None));
        assert_eq!(full.unwrap_err().raw_os_error(), Some(libc::ERANGE));
        let absent: io::Result<Option<()>> = with_room(|_| (libc::ENOENT, None));
        assert!(absent.unwrap().is_none());
    }
}
