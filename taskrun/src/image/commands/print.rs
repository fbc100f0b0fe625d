//! How the store and what was done to it are printed: for people, and as JSON whose fields are added to and never renamed.
//! `inspect` has docker's fields, and ours beside them.

use std::io::{self, Write};
use std::time::SystemTime;

use comfy_table::{CellAlignment, Table, presets};
use images::store::{Details, LayerDetails, Removed, RootfsState, Summary, VerifyReport};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::bytes::Bytes;
use crate::cli::image_args::Format;

const HEADER: [&str; 6] = ["IMAGE", "DIGEST", "PULLED (UTC)", "USED (UTC)", "SIZE", "UNPACKED"];

/// The columns of numbers.
const NUMBERS: [usize; 2] = [4, 5];

/// The list of images.
pub fn summaries(summaries: &[Summary], format: Format, out: &mut impl Write) -> io::Result<()> {
    if format == Format::Json {
        return json(&summaries.iter().map(summary).collect(), out);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(HEADER);
    table.add_rows(summaries.iter().map(|summary| {
        let image = &summary.image;
        let unpacked = summary.rootfs.as_ref().map(|rootfs| Bytes(rootfs.real_size).to_string());
        [
            image.name.clone(),
            image.manifest.hex().chars().take(12).collect(),
            minute(image.pulled_at),
            minute(image.used_at),
            Bytes(size(summary)).to_string(),
            unpacked.unwrap_or_else(|| "-".into()),
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

/// What is known of images.
pub fn details(details: &[Details], out: &mut impl Write) -> io::Result<()> {
    json(&details.iter().map(one).collect(), out)
}

/// What was removed.
pub fn removed(removed: &Removed, format: Format, out: &mut impl Write) -> io::Result<()> {
    if format == Format::Json {
        let texts = |items: &[_]| -> Vec<String> { items.iter().map(ToString::to_string).collect() };
        return json(
            &json!({
                "untagged": removed.untagged,
                "blobs": texts(&removed.blobs),
                "rootfs": removed.rootfs.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "leftovers": removed.leftovers.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
                "freed_bytes": removed.freed,
                "in_use": removed.in_use,
            }),
            out,
        );
    }
    for name in &removed.untagged {
        writeln!(out, "Untagged: {name}")?;
    }
    for digest in &removed.blobs {
        writeln!(out, "Deleted: {digest}")?;
    }
    for key in &removed.rootfs {
        writeln!(out, "Deleted: root file system {key}")?;
    }
    for path in &removed.leftovers {
        writeln!(out, "Deleted: {}", path.display())?;
    }
    for name in &removed.in_use {
        writeln!(out, "In use, so kept: {name}")?;
    }
    writeln!(out, "Freed: {}", Bytes(removed.freed))
}

/// What was found in the store.
pub fn report(report: &VerifyReport, format: Format, out: &mut impl Write) -> io::Result<()> {
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    if format == Format::Json {
        return json(
            &json!({
                "valid": report.is_valid(),
                "blobs": report.blobs,
                "rootfs": report.rootfs,
                "bytes": report.bytes,
                "problems": problems,
                "leftovers": report.leftovers.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
                "repaired": report.repaired,
            }),
            out,
        );
    }
    for problem in &problems {
        writeln!(out, "{problem}")?;
    }
    for path in &report.leftovers {
        writeln!(out, "Left over, and no harm: {}", path.display())?;
    }
    let found = match (problems.len(), report.repaired) {
        (0, _) => "nothing is wrong".to_owned(),
        (count, true) => format!("{count} problems, removed"),
        (count, false) => format!("{count} problems; `taskrun image verify --repair` removes them"),
    };
    writeln!(
        out,
        "Read {} blobs and {} root file systems, {}: {found}",
        report.blobs,
        report.rootfs,
        Bytes(report.bytes)
    )
}

fn json(value: &Value, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// An image in the JSON of the list.
fn summary(summary: &Summary) -> Value {
    let image = &summary.image;
    json!({
        "name": image.name,
        "digest": image.manifest.to_string(),
        "index": image.index.map(|index| index.to_string()),
        "platform": image.platform.to_string(),
        "created": summary.created,
        "pulled_at": rfc3339(image.pulled_at),
        "used_at": rfc3339(image.used_at),
        "size_bytes": size(summary),
        "unique_bytes": summary.unique,
        "shared_bytes": summary.shared,
        "rootfs": summary.rootfs.as_ref().map(rootfs),
    })
}

fn rootfs(rootfs: &RootfsState) -> Value {
    json!({
        "key": rootfs.key.to_string(),
        "length_bytes": rootfs.length,
        "disk_bytes": rootfs.real_size,
        "fingerprint": rootfs.fingerprint.to_string(),
        "made_at": rfc3339(rootfs.made_at),
        "used_at": rfc3339(rootfs.used_at),
    })
}

/// An image as docker's `inspect` has it.
fn one(details: &Details) -> Value {
    let Details { summary, config, id, layers } = details;
    let image = &summary.image;
    let repository = repository(&image.name);
    let set = |items: &mut dyn Iterator<Item = &String>| -> Value {
        items.map(|item| (item.clone(), json!({}))).collect::<Map<_, _>>().into()
    };
    json!({
        "Id": id.to_string(),
        "RepoTags": [image.name],
        "RepoDigests": [format!("{repository}@{}", image.manifest)],
        "Digest": image.manifest.to_string(),
        "Index": image.index.map(|index| index.to_string()),
        "Created": config.created,
        "Os": image.platform.os,
        "Architecture": image.platform.architecture,
        "Variant": image.platform.variant,
        "Size": size(summary),
        "Config": {
            "User": config.user,
            "ExposedPorts": set(&mut config.exposed_ports.iter()),
            "Env": config.env,
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "Volumes": set(&mut config.volumes.iter()),
            "WorkingDir": config.working_dir,
            "Labels": config.labels,
            "StopSignal": config.stop_signal,
            "Healthcheck": config.healthcheck,
        },
        "RootFS": {
            "Type": "layers",
            "Layers": layers.iter().map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>(),
        },
        "Layers": layers.iter().map(layer).collect::<Vec<_>>(),
        "Unpacked": summary.rootfs.as_ref().map(rootfs),
        "PulledAt": rfc3339(image.pulled_at),
        "UsedAt": rfc3339(image.used_at),
    })
}

fn layer(layer: &LayerDetails) -> Value {
    json!({
        "Digest": layer.digest.map(|digest| digest.to_string()),
        "DiffId": layer.diff_id.to_string(),
        "Size": layer.length,
        "Compression": match layer.compression {
            images::Compression::None => "none",
            images::Compression::Gzip => "gzip",
            images::Compression::Zstd => "zstd",
        },
    })
}

/// A name without its tag and digest.
fn repository(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

/// All that an image's blobs hold.
fn size(summary: &Summary) -> u64 {
    summary.unique.saturating_add(summary.shared)
}

fn timestamp(time: SystemTime) -> Timestamp {
    // Times beyond the year 9999 can't come from this program.
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn rfc3339(time: SystemTime) -> String {
    timestamp(time).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn minute(time: SystemTime) -> String {
    timestamp(time).strftime("%Y-%m-%d %H:%M").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use images::platform::Platform;
    use images::store::StoredImage;
    use images::{Digest, ImageConfig};

    use super::*;

    fn summary_of(name: &str) -> Summary {
        let image = StoredImage {
            name: name.into(),
            manifest: Digest::of(b"manifest"),
            index: None,
            platform: Platform::host(),
            pulled_at: SystemTime::UNIX_EPOCH,
            used_at: SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(60_500)).unwrap(),
        };
        Summary { image, created: None, unique: 1 << 20, shared: 1 << 19, rootfs: None }
    }

    fn text(print: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_list_has_a_line_for_each_image() {
        let list = [summary_of("docker.io/library/a:1"), summary_of("localhost:5000/b@sha256:0")];
        let table = text(|out| summaries(&list, Format::Table, out));
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3, "{table}");
        assert!(lines[1].starts_with("docker.io/library/a:1") && lines[1].ends_with('-'), "{table}");
        assert!(lines[1].contains("1970-01-01 00:01") && lines[1].contains("1.50 MB"), "{table}");
        let json: Value = serde_json::from_str(&text(|out| summaries(&list, Format::Json, out))).unwrap();
        assert_eq!(json[0]["used_at"], "1970-01-01T00:01:00.500Z");
        assert_eq!(json[1]["size_bytes"], 3 << 19);
    }

    #[test]
    fn inspect_has_dockers_fields() {
        let config = ImageConfig { volumes: ["/data".to_owned()].into(), ..ImageConfig::default() };
        let details = Details {
            summary: summary_of("localhost:5000/b:1"),
            config,
            id: Digest::of(b"config"),
            layers: Vec::new(),
        };
        let json: Value = serde_json::from_str(&text(|out| super::details(&[details], out))).unwrap();
        assert_eq!(json[0]["RepoDigests"][0], format!("localhost:5000/b@{}", Digest::of(b"manifest")));
        assert_eq!(json[0]["Config"]["Volumes"], json!({"/data": {}}));
        assert_eq!(json[0]["RootFS"]["Type"], "layers");
    }

    #[test]
    fn repositories_keep_their_port() {
        assert_eq!(repository("localhost:5000/b"), "localhost:5000/b");
        assert_eq!(repository("localhost:5000/b:tag@sha256:0"), "localhost:5000/b");
    }

    #[test]
    fn what_is_in_use_is_told() {
        let kept = Removed { in_use: vec!["a".into()], freed: 5, ..Removed::default() };
        assert_eq!(text(|out| removed(&kept, Format::Table, out)), "In use, so kept: a\nFreed: 5 B\n");
    }
}
