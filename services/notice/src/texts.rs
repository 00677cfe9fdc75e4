//! What is told, in the recipient's language. A kind that is missing here does not compile.

use crate::domain::{Kind, Language};

/// What a text is filled in with, as far as it is known.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parameters {
    pub(crate) title: Option<String>,
    pub(crate) seats: Option<u32>,
}

/// The sentence, without a full stop: the subject of a mail.
pub(crate) const fn headline(kind: Kind, language: Language) -> &'static str {
    match (language, kind) {
        (Language::English, Kind::Confirmed) => "Your booking is confirmed",
        (Language::English, Kind::Declined) => {
            "Your booking failed because its payment was declined"
        }
        (Language::English, Kind::Cancelled) => "Your booking is cancelled",
        (Language::English, Kind::Expired) => {
            "Your booking has expired because it was not paid in time"
        }
        (Language::Korean, Kind::Confirmed) => "예약이 확정되었습니다",
        (Language::Korean, Kind::Declined) => "결제가 거절되어 예약하지 못했습니다",
        (Language::Korean, Kind::Cancelled) => "예약이 취소되었습니다",
        (Language::Korean, Kind::Expired) => "제때 결제되지 않아 예약이 만료되었습니다",
    }
}

/// The text: the sentence, and what it is about as far as that is known.
pub(crate) fn render(kind: Kind, language: Language, parameters: &Parameters) -> String {
    let headline = headline(kind, language);
    let seats = parameters.seats.map(|seats| match (language, seats) {
        (Language::English, 1) => "1 seat".to_owned(),
        (Language::English, seats) => format!("{seats} seats"),
        (Language::Korean, seats) => format!("{seats}석"),
    });
    let facts: Vec<_> = parameters.title.iter().cloned().chain(seats).collect();
    if facts.is_empty() {
        return format!("{headline}.");
    }
    format!("{headline}: {}.", facts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(title: &str, seats: u32) -> Parameters {
        let title = Some(title.to_owned()).filter(|title| !title.is_empty());
        Parameters { title, seats: Some(seats).filter(|seats| *seats > 0) }
    }

    #[test]
    fn a_text_is_filled_in_with_what_is_known() {
        let render = |parameters| render(Kind::Confirmed, Language::English, &parameters);
        assert_eq!(
            render(parameters("Frozen", 10)),
            "Your booking is confirmed: Frozen, 10 seats."
        );
        assert_eq!(render(parameters("Frozen", 1)), "Your booking is confirmed: Frozen, 1 seat.");
        assert_eq!(render(parameters("Frozen", 0)), "Your booking is confirmed: Frozen.");
        assert_eq!(render(parameters("", 2)), "Your booking is confirmed: 2 seats.");
        assert_eq!(render(parameters("", 0)), "Your booking is confirmed.");
    }

    #[test]
    fn a_text_is_in_korean_too() {
        let text = render(Kind::Cancelled, Language::Korean, &parameters("겨울왕국", 2));
        assert_eq!(text, "예약이 취소되었습니다: 겨울왕국, 2석.");
    }

    #[test]
    fn no_two_kinds_are_told_alike() {
        for language in [Language::English, Language::Korean] {
            let told = Kind::ALL.map(|kind| render(kind, language, &Parameters::default()));
            let distinct: std::collections::BTreeSet<_> = told.iter().collect();
            assert_eq!(distinct.len(), told.len(), "{told:?}");
        }
    }
}
