//! Characters that servers, without being asked, take for ASCII where they cannot write them: Windows' "best fit" code pages, and
//! what resolvers of names take for a dot. Only for comparing; see `fold.rs`.

/// `⁄`: that of `½` is a part of a number.
pub(super) const FRACTION_SLASH: char = '\u{2044}';

/// The ASCII character that it is taken for, where it is; in lower case.
pub(super) fn best_fit(c: char) -> char {
    match c {
        c if c.is_ascii() => c,
        // Braille's and a note's, which show nothing.
        '\u{2800}' | '\u{1D159}' => ' ',
        c if c.is_whitespace() => ' ',
        FRACTION_SLASH | '\u{2215}' | '\u{2571}' | '\u{27CB}' | '\u{29F8}' => '/',
        '\u{2216}' | '\u{27CD}' | '\u{29F5}' | '\u{29F9}' => '\\',
        '\u{3002}' | '\u{6D4}' | '\u{701}' | '\u{702}' | '\u{A60E}' => '.',
        '\u{589}' | '\u{2236}' | '\u{A789}' => ':',
        '\u{66A}' => '%',
        '\u{201A}' => ',',
        '\u{2217}' => '*',
        '\u{223C}' => '~',
        '\u{1C3}' => '!',
        '\u{2CD}' => '_',
        '\u{2010}'..='\u{2015}' | '\u{2043}' | '\u{2212}' => '-',
        '\u{2B9}' | '\u{2BC}' | '\u{2C8}' | '\u{2018}' | '\u{2019}' | '\u{201B}' | '\u{2032}' => '\'',
        other => letter(other),
    }
}

/// Letters with a stroke or a hook, which have no accent to be left out, and the Greek ones that stand for Latin ones.
fn letter(c: char) -> char {
    match c {
        'α' => 'a',
        'ƀ' => 'b',
        'đ' | 'δ' => 'd',
        'ε' => 'e',
        'φ' => 'f',
        'ǥ' | 'ɡ' | 'γ' => 'g',
        'ħ' | 'һ' => 'h',
        'ɨ' => 'i',
        'ł' | 'ƚ' => 'l',
        'ɵ' | 'ω' => 'o',
        'π' => 'p',
        'σ' => 's',
        'ŧ' | 'ƫ' | 'ʈ' | 'θ' | 'τ' => 't',
        'ƶ' => 'z',
        other => other,
    }
}
