//! `taskrun ps` and `taskrun inspect`: what tasks there are, and all that is known of one.

use std::io::Write;

use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde_json::Value;

use super::{CommandError, Tasks};
use crate::cli::task_args::{InspectArgs, PsArgs};
use crate::errors::harmless;
use crate::ledger::{Filter, Record};
use crate::task::filter::Filters;
use crate::task::format::Template;
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
    match args.format.as_deref() {
        _ if args.quiet => {
            for record in &records {
                writeln!(out, "{}", id(args, record))?;
            }
        }
        None | Some("table") => table(args, &records, out)?,
        Some("json") => {
            let values: Vec<_> = records.iter().map(view::value).collect();
            writeln!(out, "{:#}", Value::from(values))?;
        }
        Some(template) => {
            let values: Vec<_> = records.iter().map(view::value).collect();
            write!(out, "{}", Template::parse(template)?.render(&values)?)?;
        }
    }
    Ok(0)
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
    match template {
        Some(template) => write!(out, "{}", template.render(&values)?)?,
        None => writeln!(out, "{:#}", Value::from(values))?,
    }
    Ok(exit_code)
}

fn id<'a>(args: &PsArgs, record: &'a Record) -> &'a str {
    if args.no_trunc { &record.id } else { view::short(&record.id) }
}

fn table(args: &PsArgs, records: &[Record], out: &mut impl Write) -> Result<(), CommandError> {
    let now = Timestamp::now();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEADER);
    table.add_rows(records.iter().map(|record| {
        [
            id(args, record).to_owned(),
            harmless(&record.image),
            format!("{}", f64::from(record.cpu_units) / 1024.0),
            format!("{} MiB", record.memory_mib),
            format!("{} ago", view::ago(record.stamps.created_at.unwrap_or(record.started_at), now)),
            view::state(record, now),
            record.name.clone().unwrap_or_default(),
        ]
    }));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}
