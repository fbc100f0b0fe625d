//! Names in an archive: cleaned the way umoci, podman and Docker clean them, and printed without harm.
//!
//! A name is taken relative to the image's root whether or not it starts with a slash, and cleaned as text: `.` and
//! empty components vanish, `..` takes the component before it and stops at the root. What is left cannot point outside
//! as text; that it cannot through symbolic links either is the business of [`super::tree`].

use super::error::Cause;
use super::limits::NAME_MAX;

/// The components of `name`, cleaned. None are left when it means the root itself.
pub fn clean(name: &[u8]) -> Result<Vec<&[u8]>, Cause> {
    let mut components = Vec::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop();
            }
            component => {
                check_component(component)?;
                components.push(component);
            }
        }
    }
    Ok(components)
}

/// Checks that Linux can hold a name of one component.
pub fn check_component(component: &[u8]) -> Result<(), Cause> {
    if component.len() > NAME_MAX {
        return Err(Cause::Path("a name on its path is longer than 255 bytes"));
    }
    if component.contains(&0) {
        return Err(Cause::Path("a name on its path contains a zero byte"));
    }
    Ok(())
}

/// `name` in double quotes, printable and on one line: whatever is not printable ASCII becomes `\xNN`, and very long
/// names are cut in the middle.
pub fn escape(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    const KEPT: usize = 90;
    let quote = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match (name.get(..KEPT), name.get(name.len().saturating_sub(KEPT)..)) {
        (Some(head), Some(tail)) if name.len() > LONGEST => format!("\"{}…{}\"", quote(head), quote(tail)),
        _ => format!("\"{}\"", quote(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(name: &str) -> String {
        let parts: Vec<_> = clean(name.as_bytes()).unwrap().into_iter().map(String::from_utf8_lossy).collect();
        parts.join("/")
    }

    #[test]
    fn names_are_taken_relative_to_the_root_and_never_leave_it() {
        for (name, expected) in [
            ("a/b", "a/b"),
            ("/a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("../../a", "a"),
            ("a/../../b", "b"),
            ("a/./b/../c", "a/c"),
            ("..", ""),
            (".", ""),
            ("", ""),
            ("/", ""),
            ("...", "..."),
        ] {
            assert_eq!(cleaned(name), expected, "{name:?}");
        }
    }

    #[test]
    fn names_that_linux_cannot_hold_are_refused() {
        assert!(clean(&[b'n'; 255]).is_ok());
        assert!(clean(&[b'n'; 256]).is_err());
        assert!(clean(b"a\0b").is_err());
    }

    #[test]
    fn escaped_names_stay_on_one_short_line() {
        assert_eq!(escape(b"a\n\x1b[31m\xff\""), r#""a\n\x1b[31m\xff\"""#);
        assert!(escape(&[b'n'; 100_000]).len() < 250);
    }
}
