//! The short form of the command line: `taskrun [OPTIONS] IMAGE [COMMAND…]` without the word `run`.

use std::ffi::{OsStr, OsString};

/// The subcommand that the short form stands for.
pub const RUN: &str = "run";

/// First words that are not the short form: the subcommands, and the options of `taskrun` itself.
const NOT_SHORT: [&str; 19] = [
    RUN,
    "ps",
    "inspect",
    "logs",
    "wait",
    "stop",
    "kill",
    "rm",
    "pull",
    "image",
    "template",
    "usage",
    "metrics",
    "doctor",
    "help",
    "-h",
    "--help",
    "-V",
    "--version",
];

/// Puts `run` behind the program's name when the first word is not one of taskrun's own. An image with such a name is
/// run by writing `run`.
pub fn with_subcommand(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let own = |word: &OsString| NOT_SHORT.iter().any(|own| word == OsStr::new(own));
    if arguments.get(1).is_some_and(|word| !own(word)) {
        arguments.insert(1, RUN.into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::CommandFactory;

    use super::*;

    fn split(words: &[&str]) -> Vec<OsString> {
        with_subcommand(["taskrun"].iter().chain(words).map(OsString::from))
    }

    #[test]
    fn an_image_or_an_option_in_front_means_run() {
        assert_eq!(split(&["oci:x", "ls", "-l"]), ["taskrun", "run", "oci:x", "ls", "-l"]);
        assert_eq!(split(&["-it", "oci:x"]), ["taskrun", "run", "-it", "oci:x"]);
        assert_eq!(split(&["--", "oci:x"]), ["taskrun", "run", "--", "oci:x"]);
    }

    #[test]
    fn own_words_stay_in_front() {
        for word in NOT_SHORT {
            assert_eq!(split(&[word, "x"]), ["taskrun", word, "x"]);
        }
        assert_eq!(split(&[]), ["taskrun"]);
    }

    #[test]
    fn every_subcommand_is_known_here() {
        for subcommand in crate::cli::args::Cli::command().get_subcommands() {
            assert!(NOT_SHORT.contains(&subcommand.get_name()), "{}", subcommand.get_name());
        }
    }

    #[test]
    fn bytes_that_are_not_text_pass_through() {
        let odd = OsString::from_vec(b"oci:\xff".to_vec());
        assert_eq!(with_subcommand(["taskrun".into(), odd.clone()]), ["taskrun".into(), "run".into(), odd]);
    }
}
