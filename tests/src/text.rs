/// English-looking text of at least `bytes` bytes, the same on every machine.
pub fn sentences(bytes: usize) -> String {
    const WORDS: [&str; 24] = [
        "the", "a", "fire", "iron", "smith", "hammer", "anvil", "glows", "bends", "strikes", "cools", "under", "over",
        "old", "young", "bright", "coal", "water", "and", "then", "slowly", "twice", "again", "furnace",
    ];
    let (mut text, mut state) = (String::new(), 0x5EED_u64);
    while text.len() < bytes {
        for word in 0..6 {
            // A linear congruential generator (Knuth's MMIX); its high bits are the good ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push_str(WORDS[(state >> 40) as usize % WORDS.len()]);
            text.push_str(if word < 5 { " " } else { ".\n" });
        }
    }
    text
}
