//! The command line of a task: the image's ENTRYPOINT and CMD, and what the caller says instead, combined as docker
//! does it.
//!
//! | caller gives          | command line                  |
//! |-----------------------|-------------------------------|
//! | nothing               | ENTRYPOINT + CMD              |
//! | arguments             | ENTRYPOINT + arguments        |
//! | `--entrypoint X`      | X; the image's CMD is dropped |
//! | `--entrypoint X`, arguments | X + arguments           |
//! | `--entrypoint ""`, arguments | arguments              |

use std::ffi::{OsStr, OsString};

use crate::config::ImageConfig;

/// There is nothing to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("There is no command to run: the image has neither ENTRYPOINT nor CMD that apply, so name one after the image")]
pub struct NoCommand;

/// The command and its arguments; never empty.
///
/// # Errors
/// [`NoCommand`], when neither the image nor the caller names one.
pub fn command_line(
    config: &ImageConfig,
    entrypoint: Option<&OsStr>,
    arguments: &[OsString],
) -> Result<Vec<OsString>, NoCommand> {
    let words = |words: &[String]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let rest = match entrypoint {
        None if arguments.is_empty() => words(&config.cmd),
        _ => arguments.to_vec(),
    };
    let mut line = entrypoint.map_or_else(|| words(&config.entrypoint), |entrypoint| vec![entrypoint.into()]);
    // Docker takes one empty word for no entrypoint, the caller's and the image's.
    if matches!(line.as_slice(), [word] if word.is_empty()) {
        line.clear();
    }
    line.extend(rest);
    if line.is_empty() { Err(NoCommand) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(entrypoint: &[&str], cmd: &[&str], instead: Option<&str>, arguments: &[&str]) -> Option<String> {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let config = ImageConfig { entrypoint: owned(entrypoint), cmd: owned(cmd), ..ImageConfig::default() };
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let line = command_line(&config, instead.map(OsStr::new), &arguments).ok()?;
        Some(line.join(OsStr::new(" ")).into_string().unwrap())
    }

    #[test]
    fn the_table_of_docker() {
        type Case<'a> = (&'a [&'a str], &'a [&'a str], Option<&'a str>, &'a [&'a str], Option<&'a str>);
        let table: [Case<'_>; 13] = [
            (&["/e", "-x"], &["c", "d"], None, &[], Some("/e -x c d")),
            (&["/e", "-x"], &["c", "d"], None, &["a"], Some("/e -x a")),
            (&[], &["c", "d"], None, &[], Some("c d")),
            (&[], &["c", "d"], None, &["a", "b"], Some("a b")),
            (&["/e"], &[], None, &[], Some("/e")),
            (&["/e"], &["c"], Some("/x"), &[], Some("/x")),
            (&["/e"], &["c"], Some("/x"), &["a"], Some("/x a")),
            (&["/e"], &["c"], Some(""), &["a"], Some("a")),
            (&["/e"], &["c"], Some(""), &[], None),
            (&[""], &["c"], None, &[], Some("c")),
            (&[], &[], None, &[], None),
            (&[], &[], None, &["a"], Some("a")),
            (&[], &[], Some("/x"), &[], Some("/x")),
        ];
        for (entrypoint, cmd, instead, arguments, expected) in table {
            let got = line(entrypoint, cmd, instead, arguments);
            assert_eq!(got.as_deref(), expected, "{entrypoint:?} {cmd:?} {instead:?} {arguments:?}");
        }
    }

    #[test]
    fn arguments_are_bytes() {
        use std::os::unix::ffi::OsStrExt as _;
        let argument = OsStr::from_bytes(b"\xff").to_owned();
        let line = command_line(&ImageConfig::default(), None, std::slice::from_ref(&argument));
        assert_eq!(line, Ok(vec![argument]));
    }
}
