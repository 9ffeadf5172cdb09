//! Checking passwords against their hashes: argon2id and bcrypt.
//!
//! Such a check is meant to be slow, so it runs on a thread of its own, at most half as many at once as
//! there are cores, and whoever finds no place within [`PASSWORD_WAIT`] is told so. What a hash asks for
//! is looked at before any work: memory and passes of argon2id, cost of bcrypt.
//!
//! Clients send a password with every request. A right one is remembered for [`REMEMBERED_FOR`]: as the HMAC
//! of hash and password under a key of this process, from which neither can be found again. A wrong
//! one is not remembered.
//!
//! RFC 9106; the PHC string format; crypt(5) for bcrypt.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io, thread};

use argon2::password_hash::{PasswordHash, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::hmac;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::CryptoError;
use crate::clock::Clock;
use crate::random;

/// Checks passwords, a few at a time, and remembers the right ones for a while.
pub struct Passwords {
    clock: Arc<dyn Clock>,
    places: Arc<Semaphore>,
    key: hmac::Key,
    right: Mutex<RightAnswers>,
}

/// Hash and password of right answers, as one MAC, until they are forgotten.
#[derive(Default)]
struct RightAnswers {
    until: HashMap<Mac, Duration>,
    /// The same, the oldest first: all live equally long.
    order: VecDeque<(Mac, Duration)>,
}

type Mac = [u8; 32];

/// A hash that may be worked on.
enum Hash {
    Argon2id(Box<str>),
    Bcrypt(Box<str>),
}

/// Whether a password fits its hash, as [`Passwords::verify`], but here and now: it takes as long as it
/// takes.
///
/// # Errors
/// [`CryptoError::InvalidHash`], [`CryptoError::TooLarge`] for a password above [`MAX_PASSWORD`].
pub fn fits(hash: &str, password: &str) -> Result<bool, CryptoError> {
    if password.len() > MAX_PASSWORD {
        return Err(CryptoError::TooLarge);
    }
    Hash::checked(hash)?.fits(password)
}

impl Passwords {
    /// # Errors
    /// When the operating system has no random bytes.
    pub fn new(clock: Arc<dyn Clock>) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self::with_places(clock, (cores / 2).max(1))
    }

    fn with_places(clock: Arc<dyn Clock>, places: usize) -> io::Result<Self> {
        let mut key = [0; 32];
        random::fill(&mut key)?;
        Ok(Passwords {
            clock,
            places: Arc::new(Semaphore::new(places)),
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            right: Mutex::default(),
        })
    }

    /// Whether a password fits its hash: argon2id as a PHC string, or bcrypt (`$2a$`, `$2b$`, `$2y$`).
    ///
    /// Waits for a place, and for the work; it goes on to its end when the caller does not wait for it.
    /// As everywhere, bcrypt looks at the first 72 bytes only; a password with a NUL fits none of its
    /// hashes, as they could not tell it from a shorter one.
    ///
    /// # Errors
    /// [`CryptoError::InvalidHash`], [`CryptoError::TooLarge`] for a password above [`MAX_PASSWORD`],
    /// [`CryptoError::Busy`].
    pub async fn verify(&self, hash: &str, password: &str) -> Result<bool, CryptoError> {
        if password.len() > MAX_PASSWORD {
            return Err(CryptoError::TooLarge);
        }
        let work = Hash::checked(hash)?;
        let mac = self.mac(hash, password);
        if self.is_remembered(&mac) {
            return Ok(true);
        }
        let place = timeout(PASSWORD_WAIT, Arc::clone(&self.places).acquire_owned());
        // Nobody closes the semaphore: it is the time that runs out.
        let Ok(Ok(place)) = place.await else {
            return Err(CryptoError::Busy);
        };
        // A browser opens six connections at once: five wait, and find what the first left.
        if self.is_remembered(&mac) {
            return Ok(true);
        }
        let password: Box<str> = password.into();
        let checking = spawn_blocking(move || {
            let right = work.fits(&password);
            // Held for as long as the work goes on, whoever waits for it.
            drop(place);
            right
        });
        // It fails only where a runtime is torn down.
        let right = checking.await.map_err(|_| CryptoError::Busy)??;
        if right {
            self.remember(mac);
        }
        Ok(right)
    }

    fn mac(&self, hash: &str, password: &str) -> Mac {
        let mut mac = hmac::Context::with_key(&self.key);
        // The length keeps apart what else could be moved from one to the other.
        mac.update(&(hash.len() as u64).to_be_bytes());
        mac.update(hash.as_bytes());
        mac.update(password.as_bytes());
        let mut bytes = Mac::default();
        bytes.copy_from_slice(mac.sign().as_ref());
        bytes
    }

    fn is_remembered(&self, mac: &Mac) -> bool {
        let now = self.clock.monotonic();
        let right = self.right();
        right.until.get(mac).is_some_and(|until| now < *until)
    }

    fn remember(&self, mac: Mac) {
        let now = self.clock.monotonic();
        let mut right = self.right();
        right.forget(now);
        let until = now.saturating_add(REMEMBERED_FOR);
        right.until.insert(mac, until);
        right.order.push_back((mac, until));
    }

    fn right(&self) -> MutexGuard<'_, RightAnswers> {
        // No code panics under this lock.
        self.right.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords")
            .field("places", &self.places)
            .field("remembered", &self.right().until.len())
            .finish_non_exhaustive()
    }
}

impl RightAnswers {
    /// Makes room for one: what is over goes, and if there is none, the oldest.
    fn forget(&mut self, now: Duration) {
        while let Some((mac, until)) = self.order.front() {
            if now < *until && self.order.len() < REMEMBERED {
                break;
            }
            // Remembered anew since then, it stays.
            if self.until.get(mac) == Some(until) {
                self.until.remove(mac);
            }
            self.order.pop_front();
        }
    }
}

impl Hash {
    /// A hash of a known kind that asks for no more than is allowed.
    fn checked(text: &str) -> Result<Hash, CryptoError> {
        let known = match text.len() {
            0..=MAX_HASH if is_argon2id(text) => Some(Hash::Argon2id(text.into())),
            BCRYPT_LEN if is_bcrypt(text) => Some(Hash::Bcrypt(text.into())),
            _ => None,
        };
        known.ok_or(CryptoError::InvalidHash)
    }

    fn fits(&self, password: &str) -> Result<bool, CryptoError> {
        match self {
            Hash::Argon2id(text) => {
                let hash = PasswordHash::new(text).map_err(|_| CryptoError::InvalidHash)?;
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
                match argon2.verify_password(password.as_bytes(), &hash) {
                    Ok(()) => Ok(true),
                    Err(argon2::password_hash::Error::Password) => Ok(false),
                    Err(_) => Err(CryptoError::InvalidHash),
                }
            }
            Hash::Bcrypt(_) if password.contains('\0') => Ok(false),
            Hash::Bcrypt(text) => {
                bcrypt::verify(password, text).map_err(|_| CryptoError::InvalidHash)
            }
        }
    }
}

fn is_argon2id(text: &str) -> bool {
    let Ok(hash) = PasswordHash::new(text) else {
        return false;
    };
    // Each once: `keyid` and `data` are of another time.
    let known = hash
        .params
        .iter()
        .map(|(name, _)| name.as_str())
        .eq(["m", "t", "p"]);
    let allowed = Params::try_from(&hash).is_ok_and(|params| {
        params.m_cost() <= MAX_ARGON2_MEMORY_KIB && params.t_cost() <= MAX_ARGON2_PASSES
    });
    hash.algorithm == argon2::ARGON2ID_IDENT
        && hash.version == Some(Version::V0x13.into())
        && known
        && allowed
        && hash.salt.is_some()
        && hash.hash.is_some()
}

/// `$2b$`, two digits, `$`, and 53 characters of salt and hash.
fn is_bcrypt(text: &str) -> bool {
    let cost = ["$2a$", "$2b$", "$2y$"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix))
        .and_then(|rest| rest.split_once('$'))
        .filter(|(cost, _)| cost.len() == 2 && cost.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|(cost, _)| cost.parse::<u32>().ok());
    cost.is_some_and(|cost| (MIN_BCRYPT_COST..=MAX_BCRYPT_COST).contains(&cost))
}

/// Bytes of a password.
pub const MAX_PASSWORD: usize = 1024;
/// Bytes of a hash.
pub const MAX_HASH: usize = 512;

const MAX_ARGON2_MEMORY_KIB: u32 = 64 << 10;
const MAX_ARGON2_PASSES: u32 = 10;
const BCRYPT_LEN: usize = 60;
const MIN_BCRYPT_COST: u32 = 4;
const MAX_BCRYPT_COST: u32 = 14;
/// How long a check waits for a place.
const PASSWORD_WAIT: Duration = Duration::from_secs(1);
const REMEMBERED_FOR: Duration = Duration::from_secs(300);
/// How many right answers are remembered.
const REMEMBERED: usize = 4096;

#[cfg(test)]
mod tests;
