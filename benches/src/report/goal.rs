//! The figures that the project has set itself.

use serde::Serialize;

/// What a figure is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    /// What is meant, and whether `value` is that.
    pub fn verdict(self, value: f64) -> String {
        let (words, bound, missed) = match self {
            Self::AtMost(most) => ("at most", most, value / most - 1.0),
            Self::AtLeast(least) => ("at least", least, 1.0 - value / least),
        };
        if missed <= 0.0 {
            format!("{words} {bound}: it is")
        } else {
            format!("{words} {bound}: **it isn't**, by {:.0} %", missed * 100.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_itself_is_reached() {
        assert_eq!(Goal::AtMost(2.0).verdict(2.0), "at most 2: it is");
        assert_eq!(Goal::AtLeast(0.9).verdict(0.9), "at least 0.9: it is");
        assert_eq!(Goal::AtMost(2.0).verdict(3.0), "at most 2: **it isn't**, by 50 %");
        assert_eq!(Goal::AtLeast(2.0).verdict(0.5), "at least 2: **it isn't**, by 75 %");
    }
}
