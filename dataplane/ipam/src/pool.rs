//! One pool: its ranges laid end to end, per family, and which positions of that row are used.
//!
//! Each usable address has a position: 0 for the first address of the first range, and so on in the order in which the
//! user listed the ranges, as MetalLB scans them. Addresses that `avoidBuggyIPs` leaves out have no position, so the
//! search for a free one never meets them, and counts are exact.

use std::net::IpAddr;
use std::sync::Arc;

use crate::free::Used;
use crate::range::{Family, Range, number};

/// A pool as its owner wrote it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PoolSpec {
    /// Name.
    pub name: String,
    /// Ranges, in the user's order.
    pub ranges: Vec<Range>,
    /// Whether Services that ask for nothing may get an address.
    pub auto_assign: bool,
    /// Whether IPv4 addresses that end in .0 or .255 are left out.
    pub avoid_buggy_ips: bool,
    /// Who may use it.
    pub access: Access,
}

/// Who may use a pool. A pool for some is tried before those for everybody.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Access {
    /// Every Service.
    #[default]
    Everybody,
    /// The Services that its `serviceAllocation` chooses.
    Chosen {
        /// Pools of a lower number are tried first, those without one (0) last.
        priority: u32,
    },
}

impl Access {
    /// Where the pool stands among those that a Service may use.
    pub(crate) fn rank(self) -> (bool, u32) {
        match self {
            Self::Chosen { priority } => (false, priority.checked_sub(1).unwrap_or(u32::MAX)),
            Self::Everybody => (true, 0),
        }
    }
}

/// A valid pool and its use.
#[derive(Clone, Debug)]
pub struct Pool {
    spec: PoolSpec,
    name: Arc<str>,
    v4: Row,
    v6: Row,
}

impl Pool {
    /// A pool of which nothing is used. The ranges must not overlap each other.
    #[must_use]
    pub(crate) fn new(spec: PoolSpec) -> Self {
        Self {
            v4: Row::new(&spec, Family::V4),
            v6: Row::new(&spec, Family::V6),
            name: spec.name.as_str().into(),
            spec,
        }
    }

    /// The same pool under a spec with the same addresses: its use stays.
    #[must_use]
    pub(crate) fn with_spec(self, spec: PoolSpec) -> Self {
        Self { spec, ..self }
    }

    /// What its owner wrote.
    #[must_use]
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// Its name, to be shared.
    #[must_use]
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Whether the pool has this address to give, used or not.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.row(Family::of(address)).position(address).is_some()
    }

    /// Where an address stands in the pool: the lower, the earlier it is given.
    pub(crate) fn position(&self, address: IpAddr) -> Option<u128> {
        self.row(Family::of(address)).position(address)
    }

    /// How many addresses of a family the pool has; 2^128 - 1 stands for that many or one more.
    #[must_use]
    pub fn capacity(&self, family: Family) -> u128 {
        self.row(family).last.map_or(0, |last| last.saturating_add(1))
    }

    /// How many addresses of a family are used.
    #[must_use]
    pub fn used(&self, family: Family) -> u64 {
        self.row(family).used.len()
    }

    /// How many addresses of a family are free; 2^128 - 1 stands for that many or one more.
    #[must_use]
    pub fn free(&self, family: Family) -> u128 {
        self.capacity(family)
            .saturating_sub(u128::from(self.used(family)))
    }

    /// The first free address of a family.
    pub(crate) fn first_free(&self, family: Family) -> Option<IpAddr> {
        let row = self.row(family);
        let position = row.used.first_free()?;
        row.address(position)
    }

    /// Marks an address as used; false when it was, or is not of this pool.
    pub(crate) fn take(&mut self, address: IpAddr) -> bool {
        let row = self.row_mut(Family::of(address));
        row.position(address)
            .is_some_and(|position| row.used.insert(position))
    }

    /// Marks an address as free; false when it was, or is not of this pool.
    pub(crate) fn give_back(&mut self, address: IpAddr) -> bool {
        let row = self.row_mut(Family::of(address));
        row.position(address)
            .is_some_and(|position| row.used.remove(position))
    }

    fn row(&self, family: Family) -> &Row {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn row_mut(&mut self, family: Family) -> &mut Row {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// The addresses of one family in a row.
#[derive(Clone, Debug)]
struct Row {
    family: Family,
    numbering: Numbering,
    /// In order of position.
    pieces: Vec<Piece>,
    /// Indices of `pieces`, in order of address.
    by_address: Vec<usize>,
    /// The last position; none when the row is empty.
    last: Option<u128>,
    used: Used,
}

/// Consecutive addresses at consecutive positions. `first` and `last` are numbers of [`Numbering`].
#[derive(Clone, Copy, Debug)]
struct Piece {
    first: u128,
    last: u128,
    position: u128,
}

impl Row {
    fn new(spec: &PoolSpec, family: Family) -> Self {
        let numbering = match family {
            Family::V4 if spec.avoid_buggy_ips => Numbering::WithoutBuggy,
            Family::V4 | Family::V6 => Numbering::Plain,
        };
        let mut pieces: Vec<Piece> = Vec::new();
        let mut last = None;
        for range in spec.ranges.iter().filter(|range| range.family() == family) {
            let Some((first_number, last_number)) = numbering.ends(range) else {
                continue;
            };
            // Ranges do not overlap, so only a row of all 2^128 addresses has no position left, and no further range.
            let Some(position) = last.map_or(Some(0), |last: u128| last.checked_add(1)) else {
                break;
            };
            pieces.push(Piece {
                first: first_number,
                last: last_number,
                position,
            });
            last = Some(position.saturating_add(last_number - first_number));
        }
        let mut by_address: Vec<usize> = (0..pieces.len()).collect();
        by_address.sort_by_key(|index| pieces.get(*index).map(|piece| piece.first));
        Self {
            family,
            numbering,
            pieces,
            by_address,
            last,
            used: Used::default(),
        }
    }

    fn position(&self, address: IpAddr) -> Option<u128> {
        let wanted = self.numbering.number_of(number(address))?;
        let piece = |index: &usize| self.pieces.get(*index);
        let after = self
            .by_address
            .partition_point(|index| piece(index).is_some_and(|piece| piece.first <= wanted));
        let piece = self.by_address.get(after.checked_sub(1)?).and_then(piece)?;
        (wanted <= piece.last).then(|| piece.position + (wanted - piece.first))
    }

    fn address(&self, position: u128) -> Option<IpAddr> {
        if position > self.last? {
            return None;
        }
        let after = self.pieces.partition_point(|piece| piece.position <= position);
        let piece = self.pieces.get(after.checked_sub(1)?)?;
        let number = piece.first + (position - piece.position);
        self.family.address(self.numbering.address_number(number))
    }
}

/// How the usable addresses of a family are counted.
#[derive(Clone, Copy, Debug)]
enum Numbering {
    /// Every address has its own number.
    Plain,
    /// 254 numbers for each 256 addresses: those that end in .0 and .255 have none.
    WithoutBuggy,
}

impl Numbering {
    fn number_of(self, address: u128) -> Option<u128> {
        match self {
            Self::Plain => Some(address),
            Self::WithoutBuggy => match address % 256 {
                0 | 255 => None,
                rest => Some(address / 256 * 254 + rest - 1),
            },
        }
    }

    fn address_number(self, number: u128) -> u128 {
        match self {
            Self::Plain => number,
            Self::WithoutBuggy => number / 254 * 256 + number % 254 + 1,
        }
    }

    /// The numbers of the first and the last usable address of a range; none when it has no usable address.
    fn ends(self, range: &Range) -> Option<(u128, u128)> {
        let (first, last) = (number(range.first()), number(range.last()));
        // The next or the previous usable address is at most two away.
        let first = (first..=last)
            .take(3)
            .find_map(|address| self.number_of(address))?;
        let last = (0..3)
            .filter_map(|step| last.checked_sub(step))
            .find_map(|address| self.number_of(address))?;
        (first <= last).then_some((first, last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(ranges: &[(&str, &str)], avoid_buggy_ips: bool) -> Pool {
        let range =
            |(first, last): &(&str, &str)| Range::new(first.parse().unwrap(), last.parse().unwrap()).unwrap();
        Pool::new(PoolSpec {
            name: "p".to_owned(),
            ranges: ranges.iter().map(range).collect(),
            auto_assign: true,
            avoid_buggy_ips,
            access: Access::Everybody,
        })
    }

    fn drain(pool: &mut Pool, family: Family) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(address) = pool.first_free(family) {
            assert!(pool.take(address));
            all.push(address.to_string());
        }
        all
    }

    #[test]
    fn ranges_are_used_in_the_order_they_are_listed() {
        let mut pool = pool(
            &[
                ("10.0.0.8", "10.0.0.9"),
                ("fd00::1", "fd00::1"),
                ("10.0.0.1", "10.0.0.2"),
            ],
            false,
        );
        assert_eq!(
            drain(&mut pool, Family::V4),
            ["10.0.0.8", "10.0.0.9", "10.0.0.1", "10.0.0.2"]
        );
        assert_eq!(drain(&mut pool, Family::V6), ["fd00::1"]);
        assert_eq!(
            (
                pool.capacity(Family::V4),
                pool.used(Family::V4),
                pool.free(Family::V4)
            ),
            (4, 4, 0)
        );
    }

    #[test]
    fn buggy_addresses_are_neither_given_nor_counted_nor_contained() {
        let mut pool = pool(&[("10.0.0.254", "10.0.1.1"), ("10.0.3.255", "10.0.4.0")], true);
        assert_eq!(pool.capacity(Family::V4), 2);
        assert!(!pool.contains("10.0.0.255".parse().unwrap()));
        assert!(!pool.contains("10.0.4.0".parse().unwrap()));
        assert_eq!(drain(&mut pool, Family::V4), ["10.0.0.254", "10.0.1.1"]);
    }

    #[test]
    fn avoiding_buggy_addresses_leaves_254_of_each_256_and_all_of_ipv6() {
        let pool = pool(&[("10.0.0.0", "10.255.255.255"), ("fd00::", "fd00::ff")], true);
        assert_eq!(pool.capacity(Family::V4), 65_536 * 254);
        assert_eq!(pool.capacity(Family::V6), 256);
    }

    #[test]
    fn the_whole_of_ipv6_is_a_pool_like_any_other() {
        let mut pool = pool(&[("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")], false);
        let last = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap();
        assert!(pool.take(last));
        assert!(!pool.take(last));
        assert_eq!(pool.first_free(Family::V6).unwrap().to_string(), "::");
        assert_eq!(pool.capacity(Family::V6), u128::MAX);
        assert!(pool.give_back(last));
    }
}
