//! The command line: what the user typed ([`args`], [`split`]) and what it means ([`resolve`]).
//!
//! Nothing here starts a guest; `main` hands the result on.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

pub mod args;
pub mod environment;
pub mod image_args;
pub mod mounts;
pub mod resolve;
pub mod split;
pub mod task_args;
pub mod template_args;
pub mod usage_args;

use args::{Cli, Command};

/// The subcommand that fails as `run` does.
const PULL: &str = "pull";

/// What a command line comes to that starts nothing.
#[derive(Debug)]
pub struct Refused {
    answer: clap::Error,
    /// The exit code that goes with it.
    pub exit_code: u8,
}

impl Refused {
    /// Prints it: help and the version to standard output, a refusal as one sentence to standard error.
    pub fn print(&self) {
        if self.answer.use_stderr() && self.answer.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            crate::errors::say(&self.sentence());
        } else {
            // Whoever closes standard output has read enough.
            let _ = self.answer.print();
        }
    }

    /// Clap's words on one line, without its summary of the usage.
    fn sentence(&self) -> String {
        let text = self.answer.render().to_string();
        let says = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
        let words: Vec<&str> = text.lines().map(str::trim).take_while(says).filter(|line| !line.is_empty()).collect();
        let words = words.join(" ").replace(" tip: ", "; ");
        let sentence = words.strip_prefix("error: ").unwrap_or(&words);
        let (first, rest) = sentence.split_at_checked(1).unwrap_or_default();
        format!("{}{rest} (--help says more)", first.to_uppercase())
    }
}

/// Reads a command line, the program's name first. The short form without the word `run` is
/// understood too.
///
/// # Errors
/// [`Refused`] with the exit code: 0 for help, 125 for a wrong use of `run` or `pull` as docker and podman have it, 2 for
/// another.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Box<Refused>> {
    let arguments = split::with_subcommand(arguments);
    let runs = arguments.get(1).is_some_and(|word| word == split::RUN || word == PULL);
    let refuse = |answer: clap::Error| {
        let exit_code = match (answer.exit_code(), runs) {
            (0, _) => 0,
            (_, true) => crate::errors::EXIT_TASKRUN_FAILED,
            (_, false) => 2,
        };
        Box::new(Refused { answer, exit_code })
    };
    let matches = Cli::command().try_get_matches_from(arguments).map_err(refuse)?;
    Cli::from_arg_matches(&matches).map(|cli| cli.command).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, Box<Refused>> {
        parse(["taskrun"].iter().chain(words).map(OsString::from))
    }

    fn exit_code(words: &[&str]) -> u8 {
        parse_words(words).unwrap_err().exit_code
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn exit_codes_of_wrong_uses_are_dockers() {
        assert_eq!(exit_code(&["run"]), 125);
        assert_eq!(exit_code(&["run", "--no-such-option", "oci:x"]), 125);
        assert_eq!(exit_code(&["--no-such-option", "oci:x"]), 125);
        assert_eq!(exit_code(&["run", "--cpu", "none", "oci:x"]), 125);
        assert_eq!(exit_code(&["pull", "--no-such-option", "x"]), 125);
        assert_eq!(exit_code(&["doctor", "--no-such-option"]), 2);
        assert_eq!(exit_code(&["--help"]), 0);
        assert_eq!(exit_code(&["run", "--help"]), 0);
        assert_eq!(exit_code(&["--version"]), 0);
    }

    #[test]
    fn a_refusal_is_one_sentence_with_the_remedy() {
        let sentence = |words: &[&str]| parse_words(words).unwrap_err().sentence();
        assert_eq!(
            sentence(&["run", "--memory", "16MB", "oci:x"]),
            "Invalid value '16MB' for '--memory <SIZE>': The smallest memory is 64 MiB: \
             the guest's kernel needs that much to start (--help says more)"
        );
        assert!(sentence(&["run", "--cpus", "1", "oci:x"]).contains("'--cpu'"));
        assert!(sentence(&["run"]).contains("IMAGE"));
    }
}
