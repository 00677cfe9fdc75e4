//! Which part of a log a subject belongs to.

/// How many parts the subjects of a log are divided into. Fixed for ever: cursors and leases depend on it.
pub(crate) const PARTITIONS: u64 = 16;

/// The part that a subject belongs to: FNV-1a (64 bit), modulo 16. Fixed for ever.
pub(crate) fn partition_of(subject: &str) -> i32 {
    let hash = subject.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    i32::try_from(hash % PARTITIONS).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g4_partitions_are_fixed_for_ever() {
        let subjects = ["", "a", "movies/0198f3c1-0000-7000-8000-000000000000", "accounts/1"];
        assert_eq!(subjects.map(partition_of), [5, 12, 11, 5]);
    }
}
