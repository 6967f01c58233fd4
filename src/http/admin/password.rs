//! Passwords of the people who may look at the admin pages: what is accepted, how it is stored, how it is checked.

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::ids::random_bytes;

/// Shorter ones are refused.
pub(super) const MIN_CHARS: usize = 12;
/// Longer ones are refused before anything is computed from them.
pub(super) const MAX_BYTES: usize = 1024;

/// Checked when the name is unknown, so that the answer takes as long. Nobody knows a password for it, and its result
/// is ignored.
pub(super) const DUMMY_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$cHJlcGFpZDQwMi1kdW1teQ$\
                                     b3BlbiBzZXNhbWUgaXMgbm90IHRoZSBwYXNzd29yZCE";

/// What passwords begin with that were made here, of 256 random bits. Nobody guesses one: they need neither a slow hash nor a delay.
const GENERATED: &str = "prepaid402_";
/// 32 bytes in base64url.
const GENERATED_LEN: usize = 43;

/// The best known passwords that are long enough to pass otherwise, in lower case.
const COMMON: &[&str] = &[
    "000000000000",
    "111111111111",
    "1234567890123",
    "123456789012",
    "12345678901234",
    "1234567890qwerty",
    "123456789abc",
    "123123123123",
    "1q2w3e4r5t6y",
    "1q2w3e4r5t6y7u8i",
    "1qaz2wsx3edc",
    "1qaz2wsx3edc4rfv",
    "abcdefghijkl",
    "abcdefghijklmnopqrstuvwxyz",
    "abc123abc123",
    "adminadminadmin",
    "admin1234567",
    "admin12345678",
    "administrator",
    "administrator1",
    "changemechangeme",
    "changeme1234",
    "correcthorsebatterystaple",
    "correct horse battery staple",
    "iloveyou1234",
    "iloveyouiloveyou",
    "letmeinletmein",
    "letmein12345",
    "p@ssw0rd1234",
    "passw0rd1234",
    "password1234",
    "password12345",
    "password123456",
    "password1234567",
    "passwordpassword",
    "passwort1234",
    "prepaid402prepaid402",
    "qazwsxedcrfv",
    "qwerty123456",
    "qwerty1234567",
    "qwertyqwerty",
    "qwertyuiop12",
    "qwertyuiop123",
    "qwertyuiop[]",
    "qwertyuiopasdfghjkl",
    "qwertzuiop123",
    "trustno1trustno1",
    "welcome12345",
    "welcome123456",
    "zxcvbnm12345",
];

/// Why a password is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Fewer than 12 characters.
    #[error(
        "the password is shorter than 12 characters; a few random words are easy to remember and hard to guess"
    )]
    TooShort,
    /// More than 1024 bytes.
    #[error("the password is longer than 1024 bytes")]
    TooLong,
    /// It has the form of those that are made here.
    #[error("a password that begins with prepaid402_ is made by --generate-password alone")]
    Reserved,
    /// Everybody who guesses tries it first.
    #[error("the password is one of the first that anybody would guess")]
    Common,
}

/// Whether a password may be used. Length counts, not the kinds of characters in it (NIST SP 800-63B, section 3.1.1.2).
///
/// # Errors
/// [`PasswordError`].
pub(super) fn check_strength(name: &str, password: &str) -> Result<(), PasswordError> {
    if password.len() > MAX_BYTES {
        return Err(PasswordError::TooLong);
    }
    if password.starts_with(GENERATED) {
        return Err(PasswordError::Reserved);
    }
    if password.chars().count() < MIN_CHARS {
        return Err(PasswordError::TooShort);
    }
    let lower = password.to_lowercase();
    let mut distinct: Vec<char> = lower.chars().collect();
    distinct.sort_unstable();
    distinct.dedup();
    if COMMON.contains(&lower.as_str()) || distinct.len() <= 3 || lower == name.to_lowercase() {
        return Err(PasswordError::Common);
    }
    Ok(())
}

/// A new password that nobody can guess, and its PHC string.
pub(super) fn generate() -> Result<(String, String), argon2::password_hash::Error> {
    let password = format!("{GENERATED}{}", URL_SAFE_NO_PAD.encode(random_bytes::<32>()));
    let argon2 = quick_argon2().map_err(|_| argon2::password_hash::Error::ParamsInvalid)?;
    let phc = argon2.hash_password(password.as_bytes())?.to_string();
    Ok((password, phc))
}

/// Whether a password has the form of those made here. A guess of this form is none at any other password.
pub(super) fn is_generated(password: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    password
        .strip_prefix(GENERATED)
        .is_some_and(|random| random.len() == GENERATED_LEN && random.bytes().all(is_plain))
}

/// As little as Argon2id can do: there is nothing to slow down.
fn quick_argon2() -> Result<Argon2<'static>, argon2::Error> {
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(QUICK_KIB, 1, 1, None)?))
}

/// The least that it takes.
const QUICK_KIB: u32 = 8;

fn is_of_generated(phc: &str) -> bool {
    phc.split('$').nth(3) == Some("m=8,t=1,p=1")
}

/// Argon2id with 19 MiB, 2 passes, 1 lane: OWASP's minimum.
fn argon2() -> Result<Argon2<'static>, argon2::Error> {
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19_456, 2, 1, None)?))
}

/// The password's PHC string. Takes tens of milliseconds and 19 MiB: not on a thread that serves requests.
pub(super) fn hash(password: &str) -> Result<String, argon2::password_hash::Error> {
    let argon2 = argon2().map_err(|_| argon2::password_hash::Error::ParamsInvalid)?;
    Ok(argon2.hash_password(password.as_bytes())?.to_string())
}

/// Whether the password belongs to the PHC string. As slow as [`hash`], whatever the string is of, unless the password was made here.
pub(super) fn verify(password: &str, phc: &str) -> bool {
    let is_of = |argon2: Result<Argon2<'_>, argon2::Error>, phc: &str| {
        argon2.is_ok_and(|argon2| argon2.verify_password(password.as_bytes(), phc).is_ok())
    };
    match (is_generated(password), is_of_generated(phc)) {
        (true, true) => is_of(quick_argon2(), phc),
        (true, false) => false,
        (false, true) => {
            is_of(argon2(), DUMMY_HASH);
            false
        }
        (false, false) => is_of(argon2(), phc),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_and_uncommon_passwords_are_accepted() {
        let long = "x y".repeat(400);
        for (password, expected) in [
            ("short", Err(PasswordError::TooShort)),
            ("ünïcödé1234", Err(PasswordError::TooShort)),
            ("Password1234", Err(PasswordError::Common)),
            ("aaaaaaaaaaaaaaaa", Err(PasswordError::Common)),
            ("121212121212", Err(PasswordError::Common)),
            ("Finance.Department", Err(PasswordError::Common)),
            (long.as_str(), Err(PasswordError::TooLong)),
            ("violet kettle orbit", Ok(())),
            ("ünïcödé und länger", Ok(())),
        ] {
            assert_eq!(check_strength("finance.department", password), expected, "{password}");
        }
    }

    #[test]
    fn a_generated_password_is_right_at_once_and_no_other_is() {
        let (password, phc) = generate().expect("made");
        let (other, other_phc) = generate().expect("made");
        assert!(is_generated(&password) && is_of_generated(&phc), "{phc}");
        assert!(verify(&password, &phc) && verify(&other, &other_phc));
        assert!(!verify(&other, &phc) && !verify("violet kettle orbit", &phc));
        assert!(!verify(&password, &hash(&password).expect("hashes")), "kept as what it is not");
        assert_eq!(check_strength("ci", &password), Err(PasswordError::Reserved));
        for text in ["prepaid402_", "prepaid402_short", &format!("{password}x"), &password[1..]] {
            assert!(!is_generated(text), "{text}");
        }
    }

    #[test]
    fn the_dummy_costs_what_a_real_hash_costs() {
        let real = hash("violet kettle orbit").expect("hashes");
        let parameters = |phc: &str| phc.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(parameters(&real), parameters(DUMMY_HASH));
        assert_eq!(real.len(), DUMMY_HASH.len());
        assert!(verify("violet kettle orbit", &real));
        assert!(!verify("violet kettle orbi", &real));
        // It must be well-formed, or verification would end before the work is done.
        assert!(argon2::password_hash::phc::PasswordHash::new(DUMMY_HASH).is_ok());
    }
}
