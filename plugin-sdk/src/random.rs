//! Bytes that nobody can foresee.

/// So many random bytes, at most 4096.
pub fn bytes(len: usize) -> Vec<u8> {
    let len = u32::try_from(len.min(MAX)).unwrap_or_default();
    #[cfg(target_arch = "wasm32")]
    {
        crate::glue::bindings::sluicegate::plugin::random::bytes(len)
    }
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::random(len)
}

/// A random number.
pub fn number() -> u64 {
    bytes(8)
        .into_iter()
        .fold(0, |number, byte| number << 8 | u64::from(byte))
}

const MAX: usize = 4096;

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_are_the_same() {
        assert_eq!(super::bytes(24).len(), 24);
        assert_eq!(super::bytes(5000).len(), 4096);
        assert_ne!(super::bytes(24), super::bytes(24));
        assert_ne!(super::number(), super::number());
    }
}
