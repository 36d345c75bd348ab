//! Checks of `precompiled_charsmap`, over which `tokenizers` runs without looking at bounds.

use tokenizers::Result;

/// Checks that no text can lead out of the map: its length, the units of a double array of bytes (darts-clone, four bytes each),
/// then the replacements, each ended by a zero byte, to which the array's leaves point.
pub(super) fn check(charsmap: &[u8]) -> Result<()> {
    let damaged = |what: &str| Err(format!("normalizer_spec.precompiled_charsmap is damaged: {what}").into());
    let Some((length, rest)) = charsmap.split_first_chunk::<4>() else {
        return damaged("it is shorter than its length");
    };
    let Some((array, texts)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
        return damaged("it is cut off");
    };
    let (units, []) = array.as_chunks::<4>() else {
        return damaged("its array is no multiple of four bytes");
    };
    let Ok(texts) = std::str::from_utf8(texts) else {
        return damaged("its replacements are not UTF-8");
    };
    let units: Vec<usize> = units.iter().map(|unit| u32::from_le_bytes(*unit) as usize).collect();
    let Some(root) = units.first() else {
        return damaged("its array is empty");
    };
    let mut seen = vec![false; units.len()];
    let mut nodes = vec![offset(*root)];
    while let Some(node) = nodes.pop() {
        // The children of a node are within the 256 units around it.
        if node | 0xff >= units.len() {
            return damaged("a node is outside of its array");
        }
        if std::mem::replace(&mut seen[node], true) {
            continue;
        }
        for byte in 1..=0xff {
            let child = node ^ byte;
            let unit = units[child];
            if unit & ((1 << 31) | 0xff) != byte {
                continue;
            }
            let below = child ^ offset(unit);
            let is_end = unit >> 8 & 1 == 1;
            if is_end && !units.get(below).is_some_and(|leaf| texts.is_char_boundary(leaf & !(1 << 31))) {
                return damaged("a replacement is outside of its texts");
            }
            nodes.push(below);
        }
    }
    Ok(())
}

fn offset(unit: usize) -> usize {
    (unit >> 10) << ((unit & (1 << 9)) >> 6)
}
