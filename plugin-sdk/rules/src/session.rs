//! What filters note about a session: labels, and when its tunnel must end.

use std::time::{Duration, SystemTime};

use crate::EditError;

/// Labels of a session.
pub const MAX_LABELS: usize = 32;
/// The value of a label, bytes.
pub const MAX_LABEL_VALUE: usize = 1024;
/// The name of a label, bytes.
const MAX_LABEL_NAME: usize = 64;

/// What the filters of a chain know of a session, the next after the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// In the order in which they were first set.
    pub labels: Vec<(String, String)>,
    /// Milliseconds since 1970: the earliest moment that a filter said.
    pub expires_at: Option<u64>,
    /// Milliseconds from the handshake on: the shortest that a filter said.
    pub max_lifetime: Option<u64>,
}

impl Session {
    pub fn label(&self, name: &str) -> Option<&str> {
        let (_, value) = self.labels.iter().find(|(n, _)| n == name)?;
        Some(value)
    }

    /// Sets a label, or replaces its value.
    ///
    /// # Errors
    /// `InvalidName`: not `[a-z0-9_.-]{1,64}`. `InvalidValue`: control characters. `TooLarge`, `TooMany`.
    pub fn set_label(&mut self, name: &str, value: &str) -> Result<(), EditError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_.-".contains(&b);
        if name.is_empty() || name.len() > MAX_LABEL_NAME || !name.bytes().all(allowed) {
            return Err(EditError::InvalidName);
        }
        if value.len() > MAX_LABEL_VALUE {
            return Err(EditError::TooLarge);
        }
        if value.chars().any(char::is_control) {
            return Err(EditError::InvalidValue);
        }
        if let Some((_, old)) = self.labels.iter_mut().find(|(n, _)| n == name) {
            value.clone_into(old);
        } else if self.labels.len() == MAX_LABELS {
            return Err(EditError::TooMany);
        } else {
            self.labels.push((name.to_owned(), value.to_owned()));
        }
        Ok(())
    }

    /// The tunnel ends at this moment (milliseconds since 1970) at the latest.
    pub fn expire_at(&mut self, moment: u64) {
        self.expires_at = Some(self.expires_at.map_or(moment, |before| before.min(moment)));
    }

    /// The tunnel ends after so many milliseconds at the latest.
    pub fn limit_lifetime(&mut self, milliseconds: u64) {
        let before = self.max_lifetime;
        self.max_lifetime = Some(before.map_or(milliseconds, |before| before.min(milliseconds)));
    }

    /// As a time, where there is such a time.
    pub fn expires_at(&self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(self.expires_at?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_few_and_replaced() {
        let mut session = Session::default();
        assert_eq!(session.set_label("sub", "a"), Ok(()));
        assert_eq!(session.set_label("sub", "é"), Ok(()));
        assert_eq!((session.label("sub"), session.labels.len()), (Some("é"), 1));
        for name in ["", "Sub", "a b", &"a".repeat(65)] {
            assert_eq!(session.set_label(name, ""), Err(EditError::InvalidName));
        }
        let error = session.set_label("sub", "a\nb");
        assert_eq!(error, Err(EditError::InvalidValue));
        let error = session.set_label("sub", &"a".repeat(1025));
        assert_eq!(error, Err(EditError::TooLarge));
        for n in 1..MAX_LABELS {
            assert_eq!(session.set_label(&format!("l{n}"), ""), Ok(()));
        }
        assert_eq!(session.set_label("more", ""), Err(EditError::TooMany));
        assert_eq!(session.set_label("sub", "still"), Ok(()));
    }

    #[test]
    fn the_earliest_end_holds() {
        let mut session = Session::default();
        assert_eq!(session.expires_at(), None);
        for moment in [9_000, 5_000, 7_000] {
            session.expire_at(moment);
            session.limit_lifetime(moment);
        }
        let five = Duration::from_secs(5);
        assert_eq!(session.expires_at(), Some(SystemTime::UNIX_EPOCH + five));
        assert_eq!(session.max_lifetime, Some(5_000));
        session.expires_at = Some(u64::MAX);
        // No such moment on this clock, or far away: either is never.
        let _ = session.expires_at();
    }
}
