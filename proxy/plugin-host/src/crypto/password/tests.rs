use super::*;
use crate::clock::SettableClock;

use proptest::prelude::*;

/// `password`, of the reference implementation's own tests.
const ARGON2ID: &str =
    "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4";
/// `U*U`, of crypt_blowfish's.
const BCRYPT: &str = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

fn passwords(places: usize) -> (Passwords, Arc<SettableClock>) {
    let clock = Arc::new(SettableClock::new(Duration::ZERO));
    let passwords = Passwords::with_places(clock.clone(), places).unwrap();
    (passwords, clock)
}

async fn verify(hash: &str, password: &str) -> Result<bool, CryptoError> {
    passwords(1).0.verify(hash, password).await
}

#[tokio::test]
async fn right_and_wrong_passwords() {
    let same_as_b = BCRYPT.replace("$2a$", "$2b$");
    let same_as_y = BCRYPT.replace("$2a$", "$2y$");
    for (hash, password, expect) in [
        (ARGON2ID, "password", true),
        (ARGON2ID, "Password", false),
        (ARGON2ID, "", false),
        (ARGON2ID, "password\0", false),
        (BCRYPT, "U*U", true),
        (BCRYPT, "U*V", false),
        (BCRYPT, "", false),
        // bcrypt repeats the key with its NUL, so that this one has the same hash.
        (BCRYPT, "U*U\0U*U", false),
        (&same_as_b, "U*U", true),
        (&same_as_y, "U*U", true),
    ] {
        assert_eq!(verify(hash, password).await, Ok(expect), "{password:?}");
    }
}

#[tokio::test]
async fn hashes_that_are_none_or_ask_too_much() {
    let argon2 = |params: &str| ARGON2ID.replace("m=256,t=2,p=1", params);
    let bcrypt = |cost: &str| BCRYPT.replace("$05$", cost);
    let long_salt = ARGON2ID.replace("c29tZXNhbHQ", &"c29t".repeat(200));
    for hash in [
        "",
        "password",
        "$",
        "$$$$",
        "$argon2id$",
        "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ",
        &ARGON2ID.replace("argon2id", "argon2i"),
        &ARGON2ID.replace("argon2id", "argon2d"),
        &ARGON2ID.replace("argon2id", "scrypt"),
        &ARGON2ID.replace("v=19", "v=16"),
        &ARGON2ID.replace("$v=19", ""),
        &argon2("m=65537,t=2,p=1"),
        &argon2("m=4294967295,t=1,p=1"),
        &argon2("m=256,t=11,p=1"),
        &argon2("m=256,t=0,p=1"),
        &argon2("m=256,t=2,p=0"),
        &argon2("m=256,t=2,p=1,keyid=AAAA"),
        &argon2("m=256,t=2,p=1,data=AAAA"),
        &argon2("m=256,m=256,t=2,p=1"),
        &argon2("m=256,t=2,p=1000"),
        &long_salt,
        &format!("{ARGON2ID}$more"),
        &bcrypt("$15$"),
        &bcrypt("$31$"),
        &bcrypt("$99$"),
        &bcrypt("$03$"),
        &bcrypt("$+5$"),
        &bcrypt("$5$$"),
        &BCRYPT.replace("$2a$", "$2x$"),
        &BCRYPT.replace("$2a$", "$2$$"),
        &BCRYPT[..59],
        &format!("{BCRYPT}x"),
        &BCRYPT.replace("YPO", "Y=O"),
        &BCRYPT.replace("YP", "\u{e9}"),
        "$1$salt$qJH7.N4xYta3aEG/dfqo/0",
        "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
    ] {
        let answer = verify(hash, "password").await;
        assert_eq!(answer, Err(CryptoError::InvalidHash), "{hash}");
    }
    let long = "x".repeat(MAX_PASSWORD + 1);
    assert_eq!(verify(BCRYPT, &long).await, Err(CryptoError::TooLarge));
    assert_eq!(verify(ARGON2ID, &long[1..]).await, Ok(false));
}

#[tokio::test]
async fn a_right_password_is_remembered_and_forgotten() {
    let (passwords, clock) = passwords(1);
    let all_places = passwords.places.clone().acquire_owned().await.unwrap();
    // With no place free, only what is remembered is answered.
    assert!(!passwords.is_remembered(&passwords.mac(ARGON2ID, "password")));
    drop(all_places);
    assert_eq!(passwords.verify(ARGON2ID, "password").await, Ok(true));
    assert_eq!(passwords.verify(ARGON2ID, "wrong").await, Ok(false));
    let _all_places = passwords.places.clone().acquire_owned().await.unwrap();
    assert_eq!(passwords.verify(ARGON2ID, "password").await, Ok(true));
    assert!(!passwords.is_remembered(&passwords.mac(ARGON2ID, "wrong")));
    assert!(!passwords.is_remembered(&passwords.mac(BCRYPT, "password")));
    clock.advance(REMEMBERED_FOR - Duration::from_nanos(1));
    assert!(passwords.is_remembered(&passwords.mac(ARGON2ID, "password")));
    clock.advance(Duration::from_nanos(1));
    assert!(!passwords.is_remembered(&passwords.mac(ARGON2ID, "password")));
}

#[test]
fn what_is_remembered_is_bounded() {
    let (passwords, clock) = passwords(1);
    let mac = |n: usize| passwords.mac("hash", &n.to_string());
    for n in 0..REMEMBERED + 10 {
        passwords.remember(mac(n));
    }
    assert_eq!(passwords.right().until.len(), REMEMBERED);
    assert!(!passwords.is_remembered(&mac(9)), "the oldest went");
    assert!(passwords.is_remembered(&mac(10)));
    clock.advance(REMEMBERED_FOR / 2);
    passwords.remember(mac(20));
    clock.advance(REMEMBERED_FOR / 2);
    passwords.remember(mac(0));
    let right = passwords.right();
    assert_eq!((right.until.len(), right.order.len()), (2, 2));
}

#[test]
fn hash_and_password_are_kept_apart() {
    let (passwords, _) = passwords(1);
    assert_ne!(passwords.mac("ab", "c"), passwords.mac("a", "bc"));
    let (other, _) = super::tests::passwords(1);
    assert_ne!(passwords.mac("a", "b"), other.mac("a", "b"), "a key each");
}

#[tokio::test(start_paused = true)]
async fn who_finds_no_place_is_told_so() {
    let (passwords, _) = passwords(1);
    let place = passwords.places.clone().acquire_owned().await.unwrap();
    let before = tokio::time::Instant::now();
    let answer = passwords.verify(ARGON2ID, "password").await;
    assert_eq!(answer, Err(CryptoError::Busy));
    assert_eq!(before.elapsed(), PASSWORD_WAIT);
    drop(place);
    assert_eq!(passwords.verify(ARGON2ID, "password").await, Ok(true));
}

#[tokio::test]
async fn who_waits_finds_what_the_one_before_left() {
    let (passwords, _) = passwords(1);
    let place = passwords.places.clone().acquire_owned().await.unwrap();
    let mut waiting = Box::pin(passwords.verify(BCRYPT, "U*U"));
    assert!(futures_are_pending(&mut waiting));
    passwords.remember(passwords.mac(BCRYPT, "U*U"));
    drop(place);
    assert_eq!(waiting.await, Ok(true));
    assert_eq!(passwords.places.available_permits(), 1);
}

#[tokio::test]
async fn an_abandoned_check_keeps_its_place_to_the_end() {
    let (passwords, _) = passwords(1);
    let mut checking = Box::pin(passwords.verify(ARGON2ID, "password"));
    while passwords.places.available_permits() > 0 {
        assert!(futures_are_pending(&mut checking));
    }
    drop(checking);
    // The place comes back when the work is done, not before.
    let place = passwords.places.clone().acquire_owned();
    drop(timeout(Duration::from_secs(30), place).await.unwrap());
}

fn futures_are_pending<T>(future: &mut (impl Future<Output = T> + Unpin)) -> bool {
    use std::task::{Context, Waker};
    std::pin::Pin::new(future)
        .poll(&mut Context::from_waker(Waker::noop()))
        .is_pending()
}

proptest! {
    #[test]
    fn arbitrary_hashes_never_panic(text in "\\PC{0,80}", password in "\\PC{0,10}") {
        prop_assert!(Hash::checked(&text).is_err_and(|error| error == CryptoError::InvalidHash));
        for prefix in ["$2b$04$", "$argon2id$v=19$", "$argon2id$v=19$m=8,t=1,p=1$"] {
            if let Ok(hash) = Hash::checked(&format!("{prefix}{text}")) {
                prop_assert_ne!(hash.fits(&password), Ok(true));
            }
        }
    }
}
