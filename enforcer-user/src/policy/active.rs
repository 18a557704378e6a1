//! `@active("Mon-Fri 08:00-12:00 Europe/Berlin")`: the hours of the week in which a rule is in force.
//!
//! A window is said by the clock on the wall: a rule is in force at an instant if the local time of that instant lies
//! within a window. So an hour that a change of the clocks repeats counts twice, and one that it leaves out never comes.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use thiserror::Error;

use super::names::nearest;

/// The most windows of one rule, and the most times of day of one window.
const MAX_PARTS: usize = 16;

/// The longest text.
const MAX_BYTES: usize = 1024;
/// What the database also knows, and what is no place: each host's own, or nobody's.
const NO_PLACES: [&str; 3] = ["localtime", "posixrules", "Factory"];

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MINUTES_A_DAY: u32 = 24 * 60;
const MINUTES_A_WEEK: i64 = 7 * 24 * 60;
const SECONDS_A_MINUTE: i64 = 60;
/// 1970-01-01 was a Thursday; the week begins on Monday.
const EPOCH_IN_WEEK: i64 = 3 * 24 * 60;

/// When a rule is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active {
    windows: Vec<Window>,
}

/// Spans of the week in one time zone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    zone: TimeZone,
    /// From a minute up to another, both counted from Monday 00:00, the second at most a week behind the first.
    spans: Vec<(i64, i64)>,
}

/// Why such a text says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{found:?}: expected {expected}")]
pub struct ActiveError {
    /// The part that was not understood.
    found: String,
    /// What stands there.
    expected: &'static str,
    /// The name that was probably meant.
    pub near: Option<String>,
}

impl Active {
    /// Windows such as `Mon-Fri 08:00-12:00,13:00-17:00 Europe/Berlin`, joined by `;`. Days may be a list too, or
    /// `daily`; without times of day the whole days count; a time that ends before it begins ends on the next day.
    pub fn parse(text: &str) -> Result<Self, ActiveError> {
        if text.len() > MAX_BYTES {
            return Err(unexpected("…", "at most 1024 bytes"));
        }
        let windows: Vec<&str> = text.split(';').map(str::trim).collect();
        if windows.len() > MAX_PARTS {
            return Err(unexpected(text, "at most 16 windows"));
        }
        let windows = windows.into_iter().map(Window::parse).collect::<Result<_, _>>()?;
        Ok(Self { windows })
    }

    /// Whether the rule is in force at this second (Unix time); outside of the years that have dates it is not.
    #[must_use]
    pub fn holds(&self, unix_seconds: i64) -> bool {
        let Ok(at) = Timestamp::from_second(unix_seconds) else { return false };
        self.windows.iter().any(|window| window.holds(at))
    }

    /// The next second (Unix time) at which that may change; none if it never does.
    #[must_use]
    pub fn next_edge(&self, unix_seconds: i64) -> Option<i64> {
        let at = Timestamp::from_second(unix_seconds).ok()?;
        self.windows.iter().filter_map(|window| window.next_edge(at)).min()
    }
}

impl Window {
    fn parse(text: &str) -> Result<Self, ActiveError> {
        const FORM: &str = "DAYS [TIMES] ZONE, such as \"Mon-Fri 08:00-12:00 Europe/Berlin\"";
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, times, zone) = match *words.as_slice() {
            [days, zone] => (days, "00:00-24:00", zone),
            [days, times, zone] => (days, times, zone),
            _ => return Err(unexpected(text, FORM)),
        };
        let days = days_of(days)?;
        let times = list(times, "at most 16 times of day", span_of_day)?;
        let spans = (0..).zip(days).filter(|(_, counts)| *counts).flat_map(|(day, _)| {
            let midnight = i64::from(day * MINUTES_A_DAY);
            times.iter().map(move |(begin, end)| (midnight + begin, midnight + end))
        });
        Ok(Self { spans: spans.collect(), zone: zone_named(zone)? })
    }

    fn holds(&self, at: Timestamp) -> bool {
        let minute = self.local_second(at).div_euclid(SECONDS_A_MINUTE);
        self.spans
            .iter()
            .any(|(begin, end)| (minute - begin).rem_euclid(MINUTES_A_WEEK) < end - begin)
    }

    fn next_edge(&self, at: Timestamp) -> Option<i64> {
        let week = MINUTES_A_WEEK * SECONDS_A_MINUTE;
        let local = self.local_second(at);
        // Strictly later: what begins or ends now has done so.
        let until = |minute: i64| week - (local - minute * SECONDS_A_MINUTE).rem_euclid(week);
        let edges = self.spans.iter().flat_map(|(begin, end)| [until(*begin), until(*end)]);
        let edge = edges.min().map(|seconds| at.as_second() + seconds);
        // Up to the next change of the clocks these are as far away as they look.
        let change = self.zone.following(at).next().map(|change| change.timestamp().as_second());
        edge.into_iter().chain(change).min()
    }

    /// Seconds since the begin of some week by the local clock.
    fn local_second(&self, at: Timestamp) -> i64 {
        let offset = i64::from(self.zone.to_offset(at).seconds());
        at.as_second() + offset + EPOCH_IN_WEEK * SECONDS_A_MINUTE
    }
}

/// Which days of the week count.
fn days_of(text: &str) -> Result<[bool; 7], ActiveError> {
    if text == "daily" {
        return Ok([true; 7]);
    }
    let spans = list(text, "at most 16 days", span_of_week)?;
    // Friday to Monday goes over the end of the week.
    let holds = |day: usize, (first, last): (usize, usize)| {
        let behind = |to: usize| (to + DAYS.len() - first) % DAYS.len();
        behind(day) <= behind(last)
    };
    Ok(std::array::from_fn(|day| spans.iter().any(|span| holds(day, *span))))
}

/// `Mon` or `Mon-Fri`: the first and the last.
fn span_of_week(text: &str) -> Result<(usize, usize), ActiveError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let day = |name: &str| {
        let known = DAYS.iter().position(|day| *day == name);
        known.ok_or_else(|| ActiveError {
            near: nearest(name, DAYS).map(str::to_owned),
            ..unexpected(name, "a day (Mon, Tue, Wed, Thu, Fri, Sat, Sun) or \"daily\"")
        })
    };
    Ok((day(first)?, day(last)?))
}

/// `08:00-12:00`, in minutes since midnight; the second is later than the first.
fn span_of_day(text: &str) -> Result<(i64, i64), ActiveError> {
    let form = || unexpected(text, "a span of the day such as \"08:00-12:00\"");
    let (begin, end) = text.split_once('-').ok_or_else(form)?;
    let (begin, end) = (minute(begin).ok_or_else(form)?, minute(end).ok_or_else(form)?);
    match begin.cmp(&end) {
        _ if begin == MINUTES_A_DAY => Err(form()),
        std::cmp::Ordering::Less => Ok((begin.into(), end.into())),
        std::cmp::Ordering::Greater => Ok((begin.into(), (end + MINUTES_A_DAY).into())),
        std::cmp::Ordering::Equal => {
            Err(unexpected(text, "an end that is not its begin; whole days have no times"))
        }
    }
}

/// `08:30` as a minute of the day; `24:00` is its end.
fn minute(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |digits: &str| {
        let plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse::<u32>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    (minute < 60 && hour * 60 + minute <= MINUTES_A_DAY).then_some(hour * 60 + minute)
}

fn zone_named(name: &str) -> Result<TimeZone, ActiveError> {
    // The database also knows files that are no zones, and a zone of what is unknown.
    let known = || jiff::tz::db().available().map(|name| name.as_str().to_owned());
    let is_place = !NO_PLACES.iter().any(|other| other.eq_ignore_ascii_case(name));
    let found = TimeZone::get(name).ok().filter(|zone| is_place && !zone.is_unknown());
    found.ok_or_else(|| {
        let names: Vec<String> = known().collect();
        let near = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
        ActiveError { near, ..unexpected(name, "a time zone such as \"Europe/Berlin\" or \"UTC\"") }
    })
}

/// The parts between commas.
fn list<T>(
    text: &str,
    bound: &'static str,
    part: impl Fn(&str) -> Result<T, ActiveError>,
) -> Result<Vec<T>, ActiveError> {
    let parts: Vec<&str> = text.split(',').collect();
    if parts.len() > MAX_PARTS {
        return Err(unexpected(text, bound));
    }
    parts.into_iter().map(part).collect()
}

fn unexpected(found: &str, expected: &'static str) -> ActiveError {
    ActiveError { found: found.to_owned(), expected, near: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn active(text: &str) -> Active {
        Active::parse(text).unwrap()
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn edge(window: &str, now: &str) -> String {
        let edge = active(window).next_edge(at(now)).unwrap();
        Timestamp::from_second(edge).unwrap().to_string()
    }

    #[test]
    fn windows_open_and_close_by_the_local_clock() {
        let office = active("Mon-Fri 08:00-12:00,13:00-17:00 Europe/Berlin");
        for (time, holds) in [
            // Summer: two hours ahead of UTC. The 22nd is a Monday.
            ("2026-06-22T05:59:59Z", false),
            ("2026-06-22T06:00:00Z", true),
            ("2026-06-22T09:59:59Z", true),
            ("2026-06-22T10:00:00Z", false),
            ("2026-06-22T11:00:00Z", true),
            ("2026-06-20T08:00:00Z", false),
            // Winter: one hour ahead.
            ("2026-11-23T06:59:59Z", false),
            ("2026-11-23T07:00:00Z", true),
            ("2026-11-23T15:59:59Z", true),
            ("2026-11-23T16:00:00Z", false),
        ] {
            assert_eq!(office.holds(at(time)), holds, "{time}");
        }
    }

    #[test]
    fn nights_go_over_midnight_and_weeks_over_their_end() {
        let night = active("Sun 22:00-06:00 UTC");
        assert!(night.holds(at("2026-11-22T23:00:00Z")) && night.holds(at("2026-11-23T05:59:00Z")));
        assert!(!night.holds(at("2026-11-22T05:00:00Z")));
        let around = active("Sat-Mon UTC");
        let days = (22..29).map(|day| around.holds(at(&format!("2026-11-{day}T12:00:00Z"))));
        assert_eq!(days.collect::<Vec<_>>(), [true, true, false, false, false, false, true]);
        assert!(
            active("Tue 00:00-24:00 UTC; daily 09:00-10:00 UTC").holds(at("2026-11-24T23:59:59Z"))
        );
        assert!(active("daily UTC").holds(at("2026-11-24T23:59:59Z")));
    }

    #[test]
    fn the_next_edge_is_never_behind_a_change_of_the_clocks() {
        let window = "daily 09:00-17:00 Europe/Berlin";
        assert_eq!(edge(window, "2026-11-23T08:00:00Z"), "2026-11-23T16:00:00Z");
        assert_eq!(edge(window, "2026-11-23T07:59:59Z"), "2026-11-23T08:00:00Z");
        // Clocks go back at 01:00 UTC on 25 October; the morning after begins at 08:00 UTC, not 07:00.
        assert_eq!(edge(window, "2026-10-24T15:00:00Z"), "2026-10-25T01:00:00Z");
        assert_eq!(edge(window, "2026-10-25T01:00:00Z"), "2026-10-25T08:00:00Z");
        // 02:00 to 03:00 comes twice on that day, and not at all on 29 March.
        let repeated = active("Sun 02:00-03:00 Europe/Berlin");
        assert!(
            repeated.holds(at("2026-10-25T00:30:00Z"))
                && repeated.holds(at("2026-10-25T01:30:00Z"))
        );
        assert!(
            !repeated.holds(at("2026-03-29T00:59:59Z"))
                && !repeated.holds(at("2026-03-29T01:00:00Z"))
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (text, found) in [
            ("", "\"\": expected DAYS"),
            ("Mon-Fri", "\"Mon-Fri\": expected DAYS"),
            ("Mon-Fir 08:00-12:00 UTC", "\"Fir\": expected a day"),
            ("mon 08:00-12:00 UTC", "\"mon\": expected a day"),
            ("Mon 8:00-12:00 UTC", "\"8:00-12:00\": expected a span"),
            ("Mon 08:00-24:01 UTC", "expected a span"),
            ("Mon 24:00-08:00 UTC", "expected a span"),
            ("Mon 08:60-09:00 UTC", "expected a span"),
            ("Mon 08:00 UTC", "expected a span"),
            ("Mon 08:00-08:00 UTC", "an end that is not its begin"),
            ("Mon 08:00-09:00 Europe/Berln", "\"Europe/Berln\": expected a time zone"),
            ("Mon localtime", "\"localtime\": expected a time zone"),
            ("Mon 08:00-09:00 UTC extra", "expected DAYS"),
            ("Mon UTC;", "\"\": expected DAYS"),
        ] {
            let error = Active::parse(text).unwrap_err().to_string();
            assert!(error.contains(found), "{text}: {error}");
        }
        assert!(Active::parse(&["Mon UTC"; 17].join(";")).is_err());
        let near = Active::parse("Mon Europe/Berln").unwrap_err().near;
        assert_eq!(near.as_deref(), Some("Europe/Berlin"));
    }

    proptest! {
        /// Nothing changes before the edge that is told.
        #[test]
        fn no_edge_is_left_out(
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "Asia/Kathmandu", "Australia/Lord_Howe"]),
            days in prop::sample::select(vec!["daily", "Mon-Fri", "Sat,Sun", "Fri-Mon"]),
            begin in 0..1440_u32, end in 0..1440_u32, now in 1_767_225_600..1_798_761_600_i64,
        ) {
            prop_assume!(begin != end);
            let time = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
            let active = active(&format!("{days} {}-{} {zone}", time(begin), time(end)));
            let edge = active.next_edge(now).unwrap();
            prop_assert!(edge > now);
            let holds = active.holds(now);
            for step in (now..edge).step_by(600).chain([edge - 1]) {
                prop_assert_eq!(active.holds(step), holds);
            }
        }
    }
}
