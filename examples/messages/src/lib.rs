//! Masks words in what clients say, and closes the tunnel of one that does not stop.

use sluicegate_plugin::{
    ConfigError, Filter, Hook, Interest, MessageFilter, Opening, Reaction, Side, config, export,
    info,
};

#[config]
pub struct Config {
    /// What is masked, in upper or lower case.
    words: Vec<String>,
    /// So many messages are masked; the next one closes.
    #[serde(default = "three")]
    strikes: u32,
}

pub struct WordGuard(Config);

impl Filter for WordGuard {
    type Config = Config;

    fn configure(mut config: Config) -> Result<Self, ConfigError> {
        if config.words.iter().any(String::is_empty) {
            return Err(ConfigError::key("words", "has an empty one"));
        }
        config
            .words
            .iter_mut()
            .for_each(|word| word.make_ascii_lowercase());
        Ok(WordGuard(config))
    }

    // Handshakes go on without this filter.
    fn uses(&self, hook: Hook) -> bool {
        hook == Hook::Messages
    }
}

impl MessageFilter for WordGuard {
    /// The strikes of this tunnel's client.
    type Session = u32;

    fn interest(&self) -> Interest {
        Interest::text().from(Side::Client)
    }

    fn open(&self, _: &Opening) -> Option<u32> {
        Some(0)
    }

    fn on_text(&self, strikes: &mut u32, _: Side, text: &str) -> Reaction {
        let Some(masked) = self.masked(text) else {
            return Reaction::forward();
        };
        *strikes += 1;
        if *strikes > self.0.strikes {
            info!("too many masked messages");
            return Reaction::close(1008, "mind your language");
        }
        Reaction::replace(masked)
    }
}

impl WordGuard {
    /// The text with stars in it; `None`: it has none of the words.
    fn masked(&self, text: &str) -> Option<String> {
        // As long as the text, so places in the one are places in the other.
        let lower = text.to_ascii_lowercase();
        let mut masked = None;
        for word in &self.0.words {
            for (at, _) in lower.match_indices(word) {
                let masked = masked.get_or_insert_with(|| text.to_owned());
                masked.replace_range(at..at + word.len(), &"*".repeat(word.len()));
            }
        }
        masked
    }
}

fn three() -> u32 {
    3
}

export!(WordGuard: messages);

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(words: &[&str], strikes: u32) -> Result<WordGuard, ConfigError> {
        let words = words.iter().map(|&word| word.to_owned()).collect();
        WordGuard::configure(Config { words, strikes })
    }

    #[test]
    fn words_are_masked_until_there_are_too_many() {
        let guard = guard(&["darn", "Heck"], 2).unwrap();
        let mut strikes = guard.open(&Opening::builder().build()).unwrap();
        let mut says = |text| guard.on_text(&mut strikes, Side::Client, text);
        assert_eq!(says("hello"), Reaction::forward());
        assert_eq!(says("Darn it, DARN"), Reaction::replace("**** it, ****"));
        assert_eq!(says("what the heck"), Reaction::replace("what the ****"));
        assert_eq!(says("darn").close_code(), Some(1008));
    }

    #[test]
    fn an_empty_word_is_a_mistake() {
        assert!(guard(&[""], 2).is_err());
    }
}
