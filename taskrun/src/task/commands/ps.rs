//! `taskrun ps` and `taskrun inspect`: what tasks there are, and all that is known of one.

use std::io::{self, BufWriter, Write};

use jiff::Timestamp;
use serde_json::Value;

use super::{CommandError, Tasks};
use crate::cli::task_args::{InspectArgs, PsArgs};
use crate::errors::harmless;
use crate::ledger::{Filter, Record};
use crate::task::filter::Filters;
use crate::task::format::{Template, align};
use crate::task::view;

const HEADER: [&str; 7] = ["TASK", "IMAGE", "VCPU", "MEMORY", "CREATED", "STATUS", "NAME"];

/// `taskrun ps`. Gives the exit code.
///
/// # Errors
/// [`CommandError`].
pub fn ps(args: &PsArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let filters = Filters::parse(&args.filter)?;
    let last = if args.latest { Some(1) } else { args.last };
    let tasks = Tasks::open()?;
    let all = args.all || last.is_some() || filters.ask_for_ends();
    let mut records = tasks.ledger.list(&Filter { open: !all, ..Filter::default() })?;
    records.retain(|record| filters.admit(record));
    // The newest first, as docker has them.
    records.reverse();
    records.truncate(last.unwrap_or(usize::MAX));
    let mut out = BufWriter::new(out);
    read_enough(print(args, &records, &mut out).and_then(|()| Ok(out.flush()?)))?;
    Ok(0)
}

fn print(args: &PsArgs, records: &[Record], out: &mut impl Write) -> Result<(), CommandError> {
    let values = || records.iter().map(view::value).collect::<Vec<_>>();
    match args.format.as_deref() {
        _ if args.quiet => records.iter().try_for_each(|record| writeln!(out, "{}", id(args, record)))?,
        None | Some("table") => table(args, records, out)?,
        Some("json") => writeln!(out, "{:#}", Value::from(values()))?,
        Some(template) => write!(out, "{}", Template::parse(template)?.render(&values())?)?,
    }
    Ok(())
}

/// A reader that has seen enough, such as `head`, is no error.
fn read_enough(printed: Result<(), CommandError>) -> Result<(), CommandError> {
    match printed {
        Err(CommandError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// `taskrun inspect`. Gives the exit code.
///
/// # Errors
/// [`CommandError`].
pub fn inspect(args: &InspectArgs, out: &mut impl Write) -> Result<u8, CommandError> {
    let template = args.format.as_deref().filter(|format| *format != "json").map(Template::parse).transpose()?;
    let mut tasks = Tasks::open()?;
    let mut values = Vec::new();
    let exit_code = tasks.each(&args.tasks, |_, record| {
        values.push(view::value(&record));
        Ok(())
    });
    let text = match template {
        Some(template) => template.render(&values)?,
        None => format!("{:#}\n", Value::from(values)),
    };
    read_enough(out.write_all(text.as_bytes()).map_err(CommandError::from))?;
    Ok(exit_code)
}

fn id<'a>(args: &PsArgs, record: &'a Record) -> &'a str {
    if args.no_trunc { &record.id } else { view::short(&record.id) }
}

fn table(args: &PsArgs, records: &[Record], out: &mut impl Write) -> Result<(), CommandError> {
    let now = Timestamp::now();
    let rows = records.iter().map(|record| {
        [
            id(args, record).to_owned(),
            harmless(&record.image),
            format!("{}", f64::from(record.cpu_units) / 1024.0),
            format!("{} MiB", record.memory_mib),
            format!("{} ago", view::ago(record.stamps.created_at.unwrap_or(record.started_at), now)),
            view::state(record, now),
            record.name.clone().unwrap_or_default(),
        ]
        .join("\t")
    });
    let lines: Vec<_> = std::iter::once(HEADER.join("\t")).chain(rows).collect();
    for line in align(&lines, "  ") {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
