//! Which machines an image is for, and which of several images fits this one (OCI image specification, "Image Index",
//! `platform`).

use std::fmt;

use serde::Deserialize;

use crate::document::{Descriptor, null_is_default};
use crate::error::printable;

/// A platform, in Go's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// The operating system.
    #[serde(deserialize_with = "null_is_default")]
    pub os: String,
    /// The processor architecture.
    #[serde(deserialize_with = "null_is_default")]
    pub architecture: String,
    /// The level of the architecture, such as `v3`.
    #[serde(deserialize_with = "null_is_default")]
    pub variant: String,
}

impl Platform {
    /// The platform of this machine's tasks.
    #[must_use]
    pub fn host() -> Self {
        Self { os: "linux".into(), architecture: "amd64".into(), variant: String::new() }
    }

    /// Whether images for this platform run here; a part that is not given is taken to fit. The level of the
    /// architecture is not looked at: an image that was asked for by name is tried.
    #[must_use]
    pub fn fits(&self) -> bool {
        matches!(self.os.as_str(), "linux" | "")
            && matches!(self.architecture.as_str(), "amd64" | "x86_64" | "x86-64" | "")
    }

    /// How well an image for this platform fits, 0 best: the lowest level of the architecture first, because that
    /// runs on every processor, and makes the choice the same on all of them.
    fn rank(&self) -> Option<u8> {
        let level = match self.variant.as_str() {
            "" | "v1" => 0,
            "v2" => 1,
            "v3" => 2,
            "v4" => 3,
            _ => return None,
        };
        self.fits().then_some(level)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |text: &str| if text.is_empty() { "unknown".into() } else { printable(text) };
        write!(f, "{}/{}", known(&self.os), known(&self.architecture))?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", printable(&self.variant)) }
    }
}

/// What [`choose`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// These fit equally well, and better than the others; there is at least one.
    Best(Vec<&'a Descriptor>),
    /// None fits; there are images for these.
    NoneFits(Vec<Platform>),
}

/// Chooses among `descriptors` by platform. One without a platform fits when no other does. Attestations, which stand
/// beside images under the platform `unknown/unknown`, are no images.
#[must_use]
pub fn choose<'a>(descriptors: &[&'a Descriptor]) -> Choice<'a> {
    let rank = |descriptor: &Descriptor| descriptor.platform.as_ref().map_or(Some(u8::MAX), Platform::rank);
    let Some(best) = descriptors.iter().filter_map(|descriptor| rank(descriptor)).min() else {
        let platforms = descriptors.iter().filter_map(|descriptor| descriptor.platform.clone());
        return Choice::NoneFits(platforms.filter(|platform| platform.os != "unknown").collect());
    };
    Choice::Best(descriptors.iter().copied().filter(|descriptor| rank(descriptor) == Some(best)).collect())
}

/// Chooses among `descriptors` those for the platform `wanted`, whose level counts when it names one; or as [`choose`]
/// does.
#[must_use]
pub fn choose_wanted<'a>(descriptors: &'a [Descriptor], wanted: Option<&Platform>) -> Choice<'a> {
    let is_wanted = |platform: &Platform| {
        wanted.is_none_or(|wanted| {
            platform.os == wanted.os
                && platform.architecture == wanted.architecture
                && (wanted.variant.is_empty() || platform.variant == wanted.variant)
        })
    };
    let fitting: Vec<&Descriptor> =
        descriptors.iter().filter(|descriptor| descriptor.platform.as_ref().is_none_or(is_wanted)).collect();
    match choose(&fitting) {
        Choice::NoneFits(_) => choose_none(descriptors),
        best => best,
    }
}

/// None fits.
fn choose_none(descriptors: &[Descriptor]) -> Choice<'static> {
    let platforms = descriptors.iter().filter_map(|descriptor| descriptor.platform.clone());
    Choice::NoneFits(platforms.filter(|platform| platform.os != "unknown").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(platform: Option<(&str, &str, &str)>) -> Descriptor {
        let platform = platform.map(|(os, architecture, variant)| Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: variant.into(),
        });
        Descriptor {
            media_type: String::new(),
            digest: crate::Digest::of(format!("{platform:?}").as_bytes()),
            size: 1,
            platform,
            annotations: Default::default(),
        }
    }

    /// The place of the chosen one among `platforms`.
    fn chosen(platforms: &[Option<(&str, &str, &str)>]) -> Option<usize> {
        let descriptors: Vec<Descriptor> = platforms.iter().map(|platform| descriptor(*platform)).collect();
        let references: Vec<&Descriptor> = descriptors.iter().collect();
        match choose(&references) {
            Choice::Best(best) => descriptors.iter().position(|descriptor| descriptor == best[0]),
            Choice::NoneFits(_) => None,
        }
    }

    #[test]
    fn the_lowest_level_of_the_own_architecture_is_chosen() {
        let arm = Some(("linux", "arm64", "v8"));
        let windows = Some(("windows", "amd64", ""));
        let unknown = Some(("unknown", "unknown", ""));
        let [plain, v1, v2, v3] = ["", "v1", "v2", "v3"].map(|variant| Some(("linux", "amd64", variant)));
        assert_eq!(chosen(&[arm, windows, unknown, plain]), Some(3));
        assert_eq!(chosen(&[v3, v2]), Some(1));
        assert_eq!(chosen(&[v3, v1]), Some(1));
        assert_eq!(chosen(&[Some(("linux", "x86_64", "")), arm]), Some(0));
        assert_eq!(chosen(&[None, v3]), Some(1));
        assert_eq!(chosen(&[arm, None]), Some(1));
        assert_eq!(chosen(&[arm, windows, unknown]), None);
        assert_eq!(chosen(&[]), None);
    }

    #[test]
    fn attestations_are_not_offered() {
        let all = [descriptor(Some(("linux", "arm64", "v8"))), descriptor(Some(("unknown", "unknown", "")))];
        let Choice::NoneFits(offered) = choose(&[&all[0], &all[1]]) else { panic!("none fits") };
        assert_eq!(offered.iter().map(ToString::to_string).collect::<Vec<_>>(), ["linux/arm64/v8"]);
    }
}
