//! An interpreter for the classic BPF instructions that the filters use. Only this crate's tests and the fuzz targets
//! use it.

use super::{Instruction, MAX_INSTRUCTIONS, PACKET_TYPE};

/// Whether the kernel accepts the program: no jump leaves it, and its last instruction is a return.
#[must_use]
pub fn is_accepted(program: &[Instruction]) -> bool {
    let is_inside = |at: usize, skip: u64| (at as u64 + 1 + skip) < program.len() as u64;
    let is_valid = |(at, op): (usize, &Instruction)| match op.code {
        0x05 => is_inside(at, u64::from(op.k)),
        0x15 | 0x25 | 0x35 => is_inside(at, u64::from(op.jt)) && is_inside(at, u64::from(op.jf)),
        0x20 | 0x28 | 0x30 | 0x06 => true,
        _ => false,
    };
    let returns = program.last().is_some_and(|op| op.code == 0x06);
    returns && program.len() <= MAX_INSTRUCTIONS && program.iter().enumerate().all(is_valid)
}

/// The number of bytes that pass, 0 for a drop; `None` if the program is not [accepted](is_accepted).
#[must_use]
pub fn run(program: &[Instruction], packet_type: u32, frame: &[u8]) -> Option<u32> {
    let mut accumulator = 0;
    let mut counter = 0;
    loop {
        let Instruction { code, jt, jf, k } = *program.get(counter)?;
        counter += 1;
        let branch = |condition: bool| usize::from(if condition { jt } else { jf });
        match code {
            0x30 if k == PACKET_TYPE => accumulator = packet_type,
            0x30 | 0x28 | 0x20 => {
                let size = match code {
                    0x30 => 1,
                    0x28 => 2,
                    _ => 4,
                };
                let at = usize::try_from(k).ok()?;
                match frame.get(at..).and_then(|rest| rest.get(..size)) {
                    Some(bytes) => {
                        accumulator = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
                    }
                    // A load beyond the frame ends the program with a drop.
                    None => return Some(0),
                }
            }
            0x05 => counter += usize::try_from(k).ok()?,
            0x15 => counter += branch(accumulator == k),
            0x25 => counter += branch(accumulator > k),
            0x35 => counter += branch(accumulator >= k),
            0x06 => return Some(k),
            _ => return None,
        }
    }
}
