//! The few instructions of classic BPF that the filters use, as the kernel runs them. For tests alone, those of this crate
//! and of the fuzz targets.

use std::collections::BTreeMap;

/// `SKF_AD_OFF + SKF_AD_PKTTYPE` of linux/filter.h.
const PACKET_TYPE: u32 = 0xffff_f004;

/// An instruction: operation, jumps, operand.
pub(crate) type Op = (u16, u8, u8, u32);

/// Whether the kernel takes the program: no jump leaves it, and it ends with a return.
pub(crate) fn is_accepted(code: &[Op]) -> bool {
    let inside = |at: usize, skip: u64| (at as u64 + 1 + skip) < code.len() as u64;
    let holds = |(at, (op, jt, jf, k)): (usize, &Op)| match op {
        0x05 => inside(at, u64::from(*k)),
        0x15 | 0x25 | 0x35 => inside(at, u64::from(*jt)) && inside(at, u64::from(*jf)),
        0x20 | 0x28 | 0x30 | 0x06 => true,
        _ => false,
    };
    let returns = code.last().is_some_and(|(op, ..)| *op == 0x06);
    returns && code.len() <= 4096 && code.iter().enumerate().all(holds)
}

/// The bytes that pass, 0 for a drop; none when it is not [accepted](is_accepted).
pub(crate) fn run(code: &[Op], packet_type: u32, frame: &[u8]) -> Option<u32> {
    let sizes = BTreeMap::from([(0x30, 1), (0x28, 2), (0x20, 4)]);
    let mut a = 0;
    let mut pc = 0;
    loop {
        let (op, jt, jf, k) = *code.get(pc)?;
        pc += 1;
        let branch = |holds: bool| usize::from(if holds { jt } else { jf });
        match op {
            0x30 if k == PACKET_TYPE => a = packet_type,
            0x30 | 0x28 | 0x20 => {
                let at = usize::try_from(k).ok()?;
                let bytes = frame.get(at..).and_then(|rest| rest.get(..*sizes.get(&op)?));
                match bytes {
                    Some(bytes) => a = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)),
                    // A load beyond the frame ends the program with a drop.
                    None => return Some(0),
                }
            }
            0x05 => pc += usize::try_from(k).ok()?,
            0x15 => pc += branch(a == k),
            0x25 => pc += branch(a > k),
            0x35 => pc += branch(a >= k),
            0x06 => return Some(k),
            _ => return None,
        }
    }
}
