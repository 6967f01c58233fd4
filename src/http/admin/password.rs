//! Passwords of the people who may look at the admin pages: what is accepted, how it is stored, how it is checked.

use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Algorithm, Argon2, Params, Version};

/// Shorter ones are refused.
pub(super) const MIN_CHARS: usize = 12;
/// Longer ones are refused before anything is computed from them.
pub(super) const MAX_BYTES: usize = 1024;

/// Checked when the name is unknown, so that the answer takes as long. Nobody knows a password for it, and its result
/// is ignored.
pub(super) const DUMMY_HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$cHJlcGFpZDQwMi1kdW1teQ$\
                                     b3BlbiBzZXNhbWUgaXMgbm90IHRoZSBwYXNzd29yZCE";

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

/// Argon2id with 19 MiB, 2 passes, 1 lane: OWASP's minimum.
fn argon2() -> Result<Argon2<'static>, argon2::Error> {
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(19_456, 2, 1, None)?))
}

/// The password's PHC string. Takes tens of milliseconds and 19 MiB: not on a thread that serves requests.
pub(super) fn hash(password: &str) -> Result<String, argon2::password_hash::Error> {
    let argon2 = argon2().map_err(|_| argon2::password_hash::Error::ParamsInvalid)?;
    Ok(argon2.hash_password(password.as_bytes())?.to_string())
}

/// Whether the password belongs to the PHC string. As slow as [`hash`].
pub(super) fn verify(password: &str, phc: &str) -> bool {
    argon2().is_ok_and(|argon2| argon2.verify_password(password.as_bytes(), phc).is_ok())
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
