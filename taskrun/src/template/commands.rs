//! `taskrun template`: what it does, and how it is printed. Fields of the JSON are added to and never renamed.

use std::env;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};
use std::time::SystemTime;

use comfy_table::{CellAlignment, Table, presets};
use jiff::Timestamp;
use serde_json::json;

use super::files::Listed;
use super::key::{Inputs, short};
use super::{TemplateError, Templates};
use crate::bytes::Bytes;
use crate::cli::image_args::Format;
use crate::cli::resolve;
use crate::cli::template_args::{BuildArgs, LsArgs, PruneArgs, RmArgs, TemplateCommand};
use crate::errors;
use crate::ledger::{self, HomeError};
use crate::microvm::{Host, LaunchError};

const HEADER: [&str; 7] = ["TEMPLATE", "VCPUS", "MEMORY", "MADE (UTC)", "USED (UTC)", "SIZE", "CURRENT"];

/// The columns of numbers.
const NUMBERS: [usize; 3] = [1, 2, 5];

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no place for templates.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// This host can't run microVMs.
    #[error(transparent)]
    Host(#[from] LaunchError),
    /// The templates.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Standard output.
    #[error("The answer can't be written")]
    Print(#[from] io::Error),
}

/// `taskrun template`. Gives the exit code.
///
/// # Errors
/// [`CommandError`].
pub fn run(command: TemplateCommand, out: &mut impl Write) -> Result<u8, CommandError> {
    let templates = Templates::of(&ledger::home::resolve()?);
    match command {
        TemplateCommand::Build(args) => build(&templates, args, out)?,
        TemplateCommand::Ls(args) => ls(&templates, &args, out)?,
        TemplateCommand::Rm(args) => rm(&templates, &args, out)?,
        TemplateCommand::Prune(args) => prune(&templates, &args, out)?,
    }
    Ok(0)
}

fn build(templates: &Templates, args: BuildArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let kernel = resolve::kernel(args.kernel, &|name: &OsStr| env::var_os(name));
    let host = Host::open(kernel.as_deref())?;
    let mut note = |text: &str| {
        if io::stderr().is_terminal() {
            errors::say(text);
        }
    };
    let key = templates.build(&host, args.cpu.vcpus(), args.memory.mib(), &mut note)?;
    Ok(writeln!(out, "{key}")?)
}

fn ls(templates: &Templates, args: &LsArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let listed = templates.list()?;
    if args.quiet {
        return Ok(listed.iter().try_for_each(|listed| writeln!(out, "{}", listed.key))?);
    }
    let current = listed.iter().map(|listed| (listed, is_current(templates, listed))).collect::<Vec<_>>();
    match args.format {
        Format::Json => {
            let values: Vec<_> = current.iter().map(|(listed, current)| value(listed, *current)).collect();
            writeln!(out, "{:#}", json!(values))?;
        }
        Format::Table => table(&current, out)?,
    }
    Ok(())
}

fn rm(templates: &Templates, args: &RmArgs, out: &mut impl Write) -> Result<(), CommandError> {
    for name in &args.templates {
        let key = templates.remove(name)?;
        writeln!(out, "Deleted: {}", short(&key))?;
    }
    Ok(())
}

fn prune(templates: &Templates, args: &PruneArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let (keys, freed) = templates.prune(|listed| args.all || !is_current(templates, listed))?;
    for key in keys {
        writeln!(out, "Deleted: {}", short(&key))?;
    }
    Ok(writeln!(out, "Freed: {}", Bytes(freed))?)
}

/// Whether a task with the installed kernel, or the one that the environment names, would find it.
fn is_current(templates: &Templates, listed: &Listed) -> bool {
    let Some(inputs) = &listed.inputs else { return false };
    let kernel = resolve::kernel(None, &|name: &OsStr| env::var_os(name));
    let Ok(host) = Host::open(kernel.as_deref()) else { return false };
    Inputs::of(&templates.folder, &host, inputs.vcpus, inputs.memory_mib).is_ok_and(|now| now == *inputs)
}

fn value(listed: &Listed, current: bool) -> serde_json::Value {
    let time =
        |time: Option<SystemTime>| time.and_then(|time| Timestamp::try_from(time).ok()).map(|time| time.to_string());
    json!({
        "key": listed.key,
        "vcpus": listed.inputs.as_ref().map(|inputs| inputs.vcpus),
        "memory_mib": listed.inputs.as_ref().map(|inputs| inputs.memory_mib),
        "made_at": time(listed.made),
        "used_at": time(listed.used),
        "size_bytes": listed.size,
        "current": current,
    })
}

fn table(listed: &[(&Listed, bool)], out: &mut impl Write) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEADER);
    table.add_rows(listed.iter().map(|(listed, current)| {
        let inputs = listed.inputs.as_ref();
        [
            short(&listed.key).to_owned(),
            inputs.map_or_else(|| "?".into(), |inputs| inputs.vcpus.to_string()),
            inputs.map_or_else(|| "?".into(), |inputs| format!("{} MiB", inputs.memory_mib)),
            minute(listed.made),
            minute(listed.used),
            Bytes(listed.size).to_string(),
            if *current { "yes" } else { "no" }.to_owned(),
        ]
    }));
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if NUMBERS.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().try_for_each(|line| writeln!(out, "{}", line.trim_end()))
}

fn minute(time: Option<SystemTime>) -> String {
    let time = time.and_then(|time| Timestamp::try_from(time).ok());
    time.map_or_else(|| "?".into(), |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}
