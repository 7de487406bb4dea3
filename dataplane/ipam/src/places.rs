//! A pool's addresses laid end to end, per family.
//!
//! Each usable address has a position: 0 for the first address of the first range, and so on in the order in which the
//! user listed the ranges, as MetalLB scans them. Addresses that `avoidBuggyIPs` or an exclusion leaves out have no
//! position, so the search for a free one never meets them, and counts are exact.

use std::net::IpAddr;

use crate::pool::PoolSpec;
use crate::range::{Family, Range, number};

/// The addresses of one family in a row.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    family: Family,
    numbering: Numbering,
    /// In order of position.
    pieces: Vec<Piece>,
    /// Indices of `pieces`, in order of address.
    by_address: Vec<usize>,
    /// The last position; none when the row is empty.
    last: Option<u128>,
}

/// Consecutive addresses at consecutive positions. `first` and `last` are numbers of [`Numbering`].
#[derive(Clone, Copy, Debug)]
struct Piece {
    first: u128,
    last: u128,
    position: u128,
}

impl Places {
    pub(crate) fn new(spec: &PoolSpec, family: Family) -> Self {
        let numbering = match family {
            Family::V4 if spec.avoid_buggy_ips => Numbering::WithoutBuggy,
            Family::V4 | Family::V6 => Numbering::Plain,
        };
        let mut pieces: Vec<Piece> = Vec::new();
        let mut last = None;
        let ranges = spec.ranges.iter().filter(|range| range.family() == family);
        for range in ranges.flat_map(|range| range.without(&spec.extras.excluded)) {
            let Some((first_number, last_number)) = numbering.ends(&range) else {
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
        }
    }

    /// How many there are; 2^128 - 1 stands for that many or one more.
    pub(crate) fn capacity(&self) -> u128 {
        self.last.map_or(0, |last| last.saturating_add(1))
    }

    /// Where an address stands.
    pub(crate) fn position(&self, address: IpAddr) -> Option<u128> {
        let wanted = self.numbering.number_of(number(address))?;
        let piece = |index: &usize| self.pieces.get(*index);
        let after = self
            .by_address
            .partition_point(|index| piece(index).is_some_and(|piece| piece.first <= wanted));
        let piece = self.by_address.get(after.checked_sub(1)?).and_then(piece)?;
        (wanted <= piece.last).then(|| piece.position + (wanted - piece.first))
    }

    /// The address at a position.
    pub(crate) fn address(&self, position: u128) -> Option<IpAddr> {
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
