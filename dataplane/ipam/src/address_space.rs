//! Maps the usable addresses of a pool to consecutive positions, per family.
//!
//! Position 0 is the first address of the first range; ranges follow in the order of `spec.addresses`, as MetalLB scans
//! them. Addresses left out by `avoidBuggyIPs` or an exclusion have no position, so a search for a free address never
//! meets them, and counts are exact.

use std::net::IpAddr;

use crate::pool_spec::PoolSpec;
use crate::range::{Family, Range, number};

/// The usable addresses of one family.
#[derive(Clone, Debug)]
pub(crate) struct AddressSpace {
    family: Family,
    numbering: Numbering,
    /// Ordered by position.
    runs: Vec<AddressRun>,
    /// Indices into `runs`, ordered by address.
    by_address: Vec<usize>,
    /// The last position; `None` if there is no address.
    last: Option<u128>,
}

/// Consecutive addresses at consecutive positions. `first` and `last` are in the numbers of [`Numbering`].
#[derive(Clone, Copy, Debug)]
struct AddressRun {
    first: u128,
    last: u128,
    position: u128,
}

impl AddressSpace {
    pub(crate) fn new(spec: &PoolSpec, family: Family) -> Self {
        let numbering = match family {
            Family::V4 if spec.avoid_buggy_ips => Numbering::WithoutBuggy,
            Family::V4 | Family::V6 => Numbering::Plain,
        };
        let mut runs: Vec<AddressRun> = Vec::new();
        let mut last = None;
        let ranges = spec.ranges.iter().filter(|range| range.family() == family);
        for range in ranges.flat_map(|range| range.without(&spec.annotations.excluded)) {
            let Some((first_number, last_number)) = numbering.ends(&range) else {
                continue;
            };
            // Ranges do not overlap: positions end only after all 2^128 addresses, and then no range is left.
            let Some(position) = last.map_or(Some(0), |last: u128| last.checked_add(1)) else {
                break;
            };
            runs.push(AddressRun {
                first: first_number,
                last: last_number,
                position,
            });
            last = Some(position.saturating_add(last_number - first_number));
        }
        let mut by_address: Vec<usize> = (0..runs.len()).collect();
        by_address.sort_by_key(|index| runs.get(*index).map(|run| run.first));
        Self {
            family,
            numbering,
            runs,
            by_address,
            last,
        }
    }

    /// Number of addresses, at most `u128::MAX`.
    pub(crate) fn capacity(&self) -> u128 {
        self.last.map_or(0, |last| last.saturating_add(1))
    }

    /// Whether there is a position.
    pub(crate) fn contains(&self, position: u128) -> bool {
        self.last.is_some_and(|last| position <= last)
    }

    /// The position of an address, if it is usable.
    pub(crate) fn position(&self, address: IpAddr) -> Option<u128> {
        let wanted = self.numbering.number_of(number(address))?;
        let run = |index: &usize| self.runs.get(*index);
        let after = self
            .by_address
            .partition_point(|index| run(index).is_some_and(|run| run.first <= wanted));
        let run = self.by_address.get(after.checked_sub(1)?).and_then(run)?;
        (wanted <= run.last).then(|| run.position + (wanted - run.first))
    }

    /// The address at a position.
    pub(crate) fn address(&self, position: u128) -> Option<IpAddr> {
        let run = self.run_at(position)?;
        let number = run.first + (position - run.position);
        self.family.address(self.numbering.address_number(number))
    }

    /// Whether a Service has to request the address at a position. A Subnet-Router anycast address (RFC 4291, 2.6.1) of
    /// a /64 is answered by every router there, so it does not work on most LANs. A range of one address is meant.
    pub(crate) fn must_be_requested(&self, position: u128) -> bool {
        self.run_at(position).is_some_and(|run| {
            let number = run.first + (position - run.position);
            self.family == Family::V6 && run.first != run.last && number & u128::from(u64::MAX) == 0
        })
    }

    fn run_at(&self, position: u128) -> Option<&AddressRun> {
        if !self.contains(position) {
            return None;
        }
        let after = self.runs.partition_point(|run| run.position <= position);
        self.runs.get(after.checked_sub(1)?)
    }
}

/// Maps usable addresses to consecutive numbers.
#[derive(Clone, Copy, Debug)]
enum Numbering {
    /// Every address is usable.
    Plain,
    /// Addresses that end in .0 or .255 are not usable: 254 numbers for each 256 addresses.
    WithoutBuggy,
}

impl Numbering {
    fn number_of(self, address: u128) -> Option<u128> {
        match self {
            Self::Plain => Some(address),
            Self::WithoutBuggy => match address % 256 {
                0 | 255 => None,
                host => Some(address / 256 * 254 + host - 1),
            },
        }
    }

    fn address_number(self, number: u128) -> u128 {
        match self {
            Self::Plain => number,
            Self::WithoutBuggy => number / 254 * 256 + number % 254 + 1,
        }
    }

    /// The numbers of the first and the last usable address of a range, if it has one.
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
