//! Between the domain and the contract.

use std::fmt;
use std::str::FromStr;

use mesh::revision;
use proto::mypage::v1 as api;

use crate::domain::Progress;
use crate::store::{Mark, Told};

/// An order as it is told to its customer.
pub(crate) fn my_order((order, history): Told) -> api::MyOrder {
    api::MyOrder {
        name: order.name,
        system: order.system,
        customer: order.customer,
        title: order.title,
        quantity: order.quantity,
        amount: Some(order.amount.into()),
        state: order.state,
        payment_state: order.payment_state,
        update_time: Some(order.update_time.into()),
        history: history.into_iter().map(Into::into).collect(),
    }
}

impl From<Progress> for api::Progress {
    fn from(progress: Progress) -> Self {
        Self {
            event: progress.event,
            source: progress.source,
            time: Some(progress.time.into()),
            revision: revision(progress.subject, progress.sequence),
        }
    }
}

/// A resume token: clients do not look into it.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.generation, self.change)
    }
}

impl FromStr for Mark {
    type Err = BadToken;

    fn from_str(token: &str) -> Result<Self, BadToken> {
        let (generation, change) = token.split_once('-').ok_or(BadToken)?;
        let mark = Self {
            generation: generation.parse().map_err(|_| BadToken)?,
            change: change.parse().map_err(|_| BadToken)?,
        };
        // One spelling only, and nothing before the first.
        if mark.change >= 0 && mark.to_string() == token { Ok(mark) } else { Err(BadToken) }
    }
}

/// A text that is no resume token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadToken;

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is not the resume_token of an answer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resume_token_reads_back() {
        let mark = Mark { generation: 2, change: 17 };
        assert_eq!(mark.to_string().parse(), Ok(mark));
    }

    #[test]
    fn other_texts_are_no_resume_tokens() {
        for bad in
            ["", "17", "2-", "-17", "2--17", "+2-17", "2-017", "2-17 ", "2-99999999999999999999"]
        {
            assert_eq!(bad.parse::<Mark>(), Err(BadToken), "{bad}");
        }
    }
}
