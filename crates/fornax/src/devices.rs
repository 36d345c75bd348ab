use std::io::Write;

use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};
use fornax_backend::{Family, Probe, probe};

/// Prints a row for each device, and one for each family that has none, with the reason.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(["device", "adapter", "driver", "memory", "precisions", "usable"]);
    let software = fornax_backend::software_allowed();
    for family in Family::ALL {
        match probe(family) {
            Ok(found) => {
                table.add_rows(found.iter().map(|probe| row(probe, software)));
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

/// A software rasteriser is opened only where that is allowed: some end the process.
fn row(probe: &Probe, software: bool) -> [String; 6] {
    let checked = (software || !probe.software).then(|| probe.check());
    let works = matches!(checked, Some(Ok(())));
    let usable = match checked {
        Some(Err(reason)) => format!("no: {reason}"),
        Some(Ok(())) if !probe.software => "yes".to_owned(),
        _ => format!("software rasteriser: only for tests, with {}=1", fornax_backend::ALLOW_SOFTWARE),
    };
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

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn a_software_rasteriser_is_opened_only_where_that_is_allowed() {
        let mut device = probe(Family::Flex).unwrap().remove(0);
        let precisions = if fornax_backend::multiplies_bf16() { "f32 bf16" } else { "f32" };
        assert_eq!(row(&device, false)[4..], [precisions, "yes"]);
        device.software = true;
        let note = "software rasteriser: only for tests, with FORNAX_ALLOW_SOFTWARE_GPU=1";
        assert_eq!(row(&device, false)[4..], ["", note]);
        assert_eq!(row(&device, true)[4..], [precisions, note]);
    }
}
