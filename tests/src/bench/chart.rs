//! A chart of arrangements side by side: bars of their speeds, as ratios to native, in SVG.

use std::fmt::Write as _;

use super::figures::Spread;
use super::side_report::SideReport;
use super::stage::Setting;

/// Pixels: of the whole, of what stands left of the bars, of a bar, and from one group of bars to the next.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 62.0;
const BAR: f64 = 15.0;
const GAP: f64 = 34.0;
/// The ratio at the right end of the axis.
const MOST: f64 = 1.2;
/// Ratios that have a line.
const LINES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Draws what was measured.
#[must_use]
pub fn chart(report: &SideReport) -> String {
    let mut svg = String::new();
    // Writing to a string does not fail.
    let _ = draw(&mut svg, report);
    svg
}

/// A bar of a group.
struct Bar {
    setting: Setting,
    ratio: Spread,
}

fn draw(out: &mut String, report: &SideReport) -> std::fmt::Result {
    let groups: Vec<_> =
        SideReport::speeds().into_iter().map(|measure| (bars(report, &measure), measure)).collect();
    let heights = groups.iter().map(|(bars, _)| height(bars.len()) + GAP);
    let bottom = TOP + heights.sum::<f64>();
    let whole = bottom + 40.0;
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {whole}" width="{WIDTH}" height="{whole}" font-family="sans-serif" font-size="12" role="img">"#
    )?;
    writeln!(out, "<title>Connection rate and throughput, to native</title>")?;
    writeln!(out, r##"<rect width="{WIDTH}" height="{whole}" fill="#ffffff"/>"##)?;
    text(out, LEFT, 22.0, "start", "Connection rate and throughput, as a ratio to native")?;
    let how = format!("medians of {} rounds; thin lines: least and most", report.rounds.len());
    text(out, LEFT, 40.0, "start", &how)?;
    for ratio in LINES {
        let x = place(ratio);
        writeln!(
            out,
            r##"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{bottom:.1}" stroke="#cccccc"/>"##,
            TOP - 8.0
        )?;
        text(out, x, bottom + 16.0, "middle", &ratio.to_string())?;
    }
    let mut y = TOP;
    for (bars, measure) in &groups {
        group(out, y, title(measure).as_str(), bars)?;
        y += height(bars.len()) + GAP;
    }
    writeln!(out, "</svg>")
}

fn bars(report: &SideReport, measure: &str) -> Vec<Bar> {
    let bar = |setting| Bar { setting, ratio: report.ratio(measure, setting) };
    let others = SideReport::settings().filter(|setting| *setting != Setting::Native);
    others.map(bar).filter(|bar| bar.ratio.median.is_finite()).collect()
}

fn group(out: &mut String, top: f64, title: &str, bars: &[Bar]) -> std::fmt::Result {
    for (line, word) in title.lines().enumerate() {
        text(out, 10.0, top + 12.0 + 15.0 * small(line), "start", word)?;
    }
    for (n, Bar { setting, ratio }) in bars.iter().enumerate() {
        let y = top + height(n);
        let (start, end) = (place(0.0), place(ratio.median));
        writeln!(
            out,
            r#"<rect x="{start:.1}" y="{y:.1}" width="{:.1}" height="{:.1}" fill="{}"/>"#,
            end - start,
            BAR - 3.0,
            color(*setting)
        )?;
        let middle = y + (BAR - 3.0) / 2.0;
        let (least, most) = (place(ratio.least), place(ratio.most));
        writeln!(
            out,
            r##"<line x1="{least:.1}" y1="{middle:.1}" x2="{most:.1}" y2="{middle:.1}" stroke="#333333"/>"##
        )?;
        let label = format!("{:.2} {}", ratio.median, words(*setting));
        text(out, end.max(most) + 6.0, y + BAR - 5.0, "start", &label)?;
    }
    Ok(())
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, words: &str) -> std::fmt::Result {
    writeln!(
        out,
        r##"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="#222222">{words}</text>"##
    )
}

/// Where a ratio stands; one beyond the axis at its end.
fn place(ratio: f64) -> f64 {
    LEFT + ratio.clamp(0.0, MOST) / MOST * (WIDTH - LEFT - RIGHT)
}

fn height(bars: usize) -> f64 {
    small(bars) * BAR
}

fn small(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// A measure in words, in two lines.
fn title(measure: &str) -> String {
    let (what, count) = measure.rsplit_once('_').unwrap_or((measure, ""));
    let plural = if count == "1" { "" } else { "s" };
    if what == "connections_per_second" {
        format!("connections/s\n{count} client{plural}")
    } else {
        format!("throughput\n{count} stream{plural}")
    }
}

const fn words(setting: Setting) -> &'static str {
    match setting {
        Setting::Native => "native",
        Setting::Nftables => "nftables conntrack",
        Setting::Enforced => "Enforcer",
        Setting::NfqueueNew => "NFQUEUE, new connections",
        Setting::NfqueueAll => "NFQUEUE, every packet",
        Setting::MutualTls => "mutual TLS (HAProxy pair)",
        Setting::Wireguard => "WireGuard (boringtun)",
    }
}

const fn color(setting: Setting) -> &'static str {
    match setting {
        Setting::Native | Setting::Nftables => "#9aa5b1",
        Setting::Enforced => "#1f6f50",
        Setting::NfqueueNew => "#c9a227",
        Setting::NfqueueAll => "#e0c878",
        Setting::MutualTls => "#a64253",
        Setting::Wireguard => "#5b7db1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> SideReport {
        let rounds = r#"[{"connections_per_second_1": {"native": 100.0, "enforced": 90.0, "wireguard": 300.0}}]"#;
        let machine = r#"{"kernel": "6", "cpus": 2, "load": "0"}"#;
        let text = format!(
            r#"{{"rounds": {rounds}, "absent": [], "machine": {machine}, "commit": "abc"}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn there_is_a_bar_for_what_was_measured_and_no_other() {
        let svg = chart(&report());
        assert!(svg.contains(">0.90 Enforcer<"));
        assert!(!svg.contains("NFQUEUE") && !svg.contains("mutual TLS"));
        // The background, and two bars.
        assert_eq!(svg.matches("<rect").count(), 3);
    }

    #[test]
    fn what_exceeds_the_axis_stays_within_the_picture() {
        assert!(place(3.0) <= WIDTH - RIGHT);
        assert!(place(-1.0) >= LEFT);
        assert!(chart(&report()).contains(">3.00 WireGuard (boringtun)<"));
    }
}
