//! Wall clock times as text in UTC, for the log and the console.

use std::fmt;

use magma_core::time::Timestamp;

const DAY: i64 = 86_400;

/// A time in UTC, down to the minute: `2015-02-13 17:04`.
pub fn minutes(time: Timestamp) -> String {
    let civil = Civil::of(time.secs());
    format!("{} {:02}:{:02}", civil.date(), civil.hour, civil.minute)
}

/// A time in UTC with all its digits: `2015-02-13 17:04:59.000000001`.
pub fn nanoseconds(time: Timestamp) -> String {
    let civil = Civil::of(time.secs());
    format!("{} {}.{:09}", civil.date(), civil.clock(), time.nanos())
}

/// A time in UTC as RFC 3339 has it, down to the millisecond, for the log.
pub fn write_rfc3339(f: &mut impl fmt::Write, time: Timestamp) -> fmt::Result {
    let civil = Civil::of(time.secs());
    let millis = time.nanos() / 1_000_000;
    write!(f, "{}T{}.{millis:03}Z", civil.date(), civil.clock())
}

struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

impl Civil {
    /// The proleptic Gregorian calendar, by eras of 400 years that begin in March, so that
    /// the leap day is the last of its year (Howard Hinnant, `civil_from_days`).
    fn of(secs: i64) -> Civil {
        let days = secs.div_euclid(DAY) + 719_468;
        let time = secs.rem_euclid(DAY);
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        Civil {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            hour: time / 3_600,
            minute: time / 60 % 60,
            second: time % 60,
        }
    }

    fn date(&self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    fn clock(&self) -> String {
        format!("{:02}:{:02}:{:02}", self.hour, self.minute, self.second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        for (secs, text) in [
            (0, "1970-01-01 00:00"),
            (-1, "1969-12-31 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (951_868_799, "2000-02-29 23:59"),
            (4_107_542_400, "2100-03-01 00:00"),
            (1_423_785_600, "2015-02-13 00:00"),
            (-62_135_596_800, "0001-01-01 00:00"),
        ] {
            assert_eq!(minutes(Timestamp(secs, 0)), text);
        }
    }

    #[test]
    fn any_time_is_printed() {
        for secs in [i64::MIN, i64::MAX] {
            assert!(!nanoseconds(Timestamp(secs, u32::MAX)).is_empty());
        }
        let mut text = String::new();
        write_rfc3339(&mut text, Timestamp(59, 7_000_000)).expect("a String takes it");
        assert_eq!(text, "1970-01-01T00:00:59.007Z");
    }
}
