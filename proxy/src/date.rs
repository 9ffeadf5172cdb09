//! The present time as heads say it (RFC 9110 §5.6.7), written once a second and thread.

use std::cell::RefCell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;

/// A value of Date.
pub fn now() -> HeaderValue {
    let now = SystemTime::now();
    let second = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    LAST.with_borrow_mut(|(written, date)| {
        if *written != second {
            // It is ASCII; a clock before 1970 leaves the date of the last answer.
            if let Ok(value) = HeaderValue::from_str(&httpdate::fmt_http_date(now)) {
                (*written, *date) = (second, value);
            }
        }
        date.clone()
    })
}

thread_local! {
    static LAST: RefCell<(u64, HeaderValue)> =
        const { RefCell::new((0, HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_the_present_second() {
        let date = httpdate::parse_http_date(now().to_str().unwrap()).unwrap();
        assert!(date.elapsed().unwrap() < Duration::from_secs(3));
    }
}
