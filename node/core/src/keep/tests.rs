use super::*;

const MINUTE: u64 = 60;

/// What these pauses teach, in seconds.
fn taught(pauses: &[u64]) -> Option<(u64, u64)> {
    let mut now = Time::ZERO + Duration::from_secs(1);
    let mut all = Pauses::default();
    for pause in pauses {
        all.fell_idle(now);
        now = now + Duration::from_secs(*pause);
        all.called(now);
        now = now + Duration::from_secs(1);
    }
    let window = all.window()?;
    Some((window.back_after.as_secs(), window.stays.as_secs()))
}

#[test]
fn words_are_read_as_they_are_written() {
    for keeping in Keeping::ALL {
        assert_eq!(keeping.to_string().parse(), Ok(keeping));
    }
    let wrong = "for-ever"
        .parse::<Keeping>()
        .expect_err("there is none such");
    assert!(wrong.contains("greedy-dual"), "{wrong}");
}

#[test]
fn an_instance_is_there_when_calls_come_after_a_pause() {
    // Half an hour between calls, always: gone for 27 minutes, there for seven.
    let half_an_hour = [30 * MINUTE; 20];
    // The first bin that holds five hundredths is the thirtieth, the last but one
    // hundredth ends with minute 31.
    let until = 31 * MINUTE * 11 / 10;
    assert_eq!(
        taught(&half_an_hour),
        Some((27 * MINUTE, until - 27 * MINUTE))
    );
    // Some seconds between calls: it does not go.
    assert_eq!(taught(&[5; 20]), Some((0, MINUTE * 11 / 10)));
    // Mostly some seconds, now and then ten minutes: it does not go, and stays for
    // the long ones.
    let mut mixed = [5; 40];
    mixed[7] = 10 * MINUTE;
    mixed[21] = 10 * MINUTE;
    assert_eq!(taught(&mixed), Some((0, 11 * MINUTE * 11 / 10)));
}

#[test]
fn nothing_is_concluded_from_few_pauses_or_from_even_ones() {
    assert_eq!(taught(&[]), None);
    assert_eq!(taught(&[30 * MINUTE; 9]), None);
    let even: Vec<u64> = (0..BINS as u64).map(|minute| minute * MINUTE).collect();
    assert_eq!(taught(&even), None);
}

#[test]
fn pauses_beyond_four_hours_are_forecast_by_the_last_of_them() {
    let six_hours = 6 * 60 * MINUTE;
    let (back_after, stays) = taught(&[six_hours; 12]).expect("they are alike");
    assert_eq!(back_after, six_hours * 85 / 100);
    assert_eq!(stays, six_hours * 30 / 100);
}

#[test]
fn new_habits_are_followed() {
    let mut pauses = vec![30 * MINUTE; PAUSES_MAX as usize];
    pauses.extend([5; 3 * PAUSES_MAX as usize]);
    let (back_after, _) = taught(&pauses).expect("there is a pattern");
    assert_eq!(back_after, 0);
}

#[test]
fn a_call_beside_others_ends_no_pause() {
    let mut pauses = Pauses::default();
    for second in 0..100 {
        pauses.called(Time::ZERO + Duration::from_secs(second));
    }
    assert_eq!(pauses.counted + pauses.longer_counted, 0);
}
