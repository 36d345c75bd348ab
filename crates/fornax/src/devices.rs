use std::io::Write;

use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use fornax_backend::{Family, Probe, probe};

/// Prints a row for each device, and one for each family that has none, with the reason.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["device", "adapter", "driver", "memory", "precisions", "usable"]);
    for family in Family::ALL {
        match probe(family) {
            Ok(found) => {
                table.add_rows(found.iter().map(row));
            }
            Err(reason) => {
                table.add_row([family.name(), "", "", "", "", &format!("no: {reason}")]);
            }
        }
    }
    writeln!(std::io::stdout(), "{table}")?;
    match fornax_backend::open(&fornax_backend::DeviceSpec::Auto) {
        Ok(open) => writeln!(std::io::stdout(), "auto takes {}: {}", open.spec, open.reason)?,
        Err(error) => writeln!(std::io::stdout(), "auto: {error}")?,
    }
    Ok(())
}

fn row(probe: &Probe) -> [String; 6] {
    let usable = match (probe.check(), probe.software) {
        (Err(reason), _) => format!("no: {reason}"),
        (Ok(()), true) => {
            format!("software rasteriser: only for tests, with {}=1", fornax_backend::ALLOW_SOFTWARE)
        }
        (Ok(()), false) => "yes".to_owned(),
    };
    let works = !usable.starts_with("no");
    let precisions = if works { probe.precisions() } else { Vec::new() };
    let memory = probe
        .memory
        .map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)));
    let compiler = if works { probe.compiler() } else { None };
    let driver = [Some(probe.driver.clone()), compiler].into_iter().flatten().filter(|text| !text.is_empty());
    [
        probe.spec.to_string(),
        probe.name.clone(),
        driver.collect::<Vec<_>>().join(", "),
        memory,
        precisions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        usable,
    ]
}
