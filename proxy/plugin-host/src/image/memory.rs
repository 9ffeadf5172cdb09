//! What an instance of a mould remembers, as Wizer asks for it.
//!
//! Wizer's questions have no way to fail, so the first failure is kept, and everything after it is
//! empty. A memory is asked for twice, and each answer of the guest's would need one more page: the
//! first is kept.

use std::collections::HashMap;

use wasmtime::Store;
use wasmtime::component::{Instance, Lift, WasmList};
use wasmtime_wizer::ComponentInstanceState;

use super::Refusal;
use crate::bindings::State;

pub(super) struct Contents {
    store: Store<State>,
    instance: Instance,
    /// By the accessor's name.
    memories: HashMap<String, Vec<u8>>,
    /// All memories together, bytes.
    most: u64,
    refusal: Option<Refusal>,
}

impl Contents {
    pub(super) fn new(mut store: Store<State>, instance: Instance, most: u64) -> Self {
        // A list counts as what a guest hands over, and the limit stands before this one.
        store.set_hostcall_fuel(usize::MAX);
        Contents {
            store,
            instance,
            memories: HashMap::new(),
            most,
            refusal: None,
        }
    }

    /// Whether all that was read is right.
    pub(super) fn finish(self) -> Result<(), Refusal> {
        self.refusal.map_or(Ok(()), Err)
    }

    /// Calls an accessor; it runs in the guest.
    async fn ask<T: Lift + Send + Sync + 'static>(
        &mut self,
        interface: &str,
        name: &str,
    ) -> Result<T, Refusal> {
        let Contents {
            store, instance, ..
        } = self;
        let outer = instance.get_export_index(&mut *store, None, interface);
        let inner =
            outer.and_then(|outer| instance.get_export_index(&mut *store, Some(&outer), name));
        let answer = async {
            let inner = inner.ok_or_else(|| wasmtime::Error::msg("there is no such accessor"))?;
            let accessor = instance.get_typed_func::<(), (T,)>(&mut *store, inner)?;
            accessor.call_async(&mut *store, ()).await
        };
        match answer.await {
            Ok((value,)) => Ok(value),
            Err(error) => Err(Refusal::Shape(format!("accessor `{name}`: {error:#}"))),
        }
    }

    async fn value<T: Lift + Default + Send + Sync + 'static>(
        &mut self,
        interface: &str,
        name: &str,
    ) -> T {
        match self.ask(interface, name).await {
            Ok(value) => value,
            Err(refusal) => {
                self.refusal.get_or_insert(refusal);
                T::default()
            }
        }
    }

    async fn memory(&mut self, interface: &str, name: &str) -> Result<Vec<u8>, Refusal> {
        let list: WasmList<u8> = self.ask(interface, name).await?;
        let bytes = list.as_le_slice(&self.store);
        let others: usize = self.memories.values().map(Vec::len).sum();
        if u64::try_from(others + bytes.len()).is_ok_and(|all| all > self.most) {
            return Err(Refusal::TooLarge);
        }
        if scattered(bytes) > MAX_SCATTERED {
            return Err(Refusal::TooScattered);
        }
        Ok(bytes.to_vec())
    }
}

impl ComponentInstanceState for Contents {
    async fn call_func_ret_list_u8(
        &mut self,
        interface: &str,
        name: &str,
        contents: impl FnOnce(&[u8]) + Send,
    ) {
        if !self.memories.contains_key(name) {
            let read = match &self.refusal {
                None => self.memory(interface, name).await,
                Some(_) => Ok(Vec::new()),
            };
            let bytes = read.unwrap_or_else(|refusal| {
                self.refusal = Some(refusal);
                Vec::new()
            });
            self.memories.insert(name.to_owned(), bytes);
        }
        contents(self.memories.get(name).map_or(&[], Vec::as_slice));
    }

    async fn call_func_ret_s32(&mut self, interface: &str, name: &str) -> i32 {
        self.value(interface, name).await
    }

    async fn call_func_ret_s64(&mut self, interface: &str, name: &str) -> i64 {
        self.value(interface, name).await
    }

    async fn call_func_ret_f32(&mut self, interface: &str, name: &str) -> u32 {
        self.value::<f32>(interface, name).await.to_bits()
    }

    async fn call_func_ret_f64(&mut self, interface: &str, name: &str) -> u64 {
        self.value::<f64>(interface, name).await.to_bits()
    }
}

/// How many runs of bytes there are between zeros: Wizer makes a note of each.
fn scattered(bytes: &[u8]) -> usize {
    let begins = |pair: &&[u8]| pair[0] == 0 && pair[1] != 0;
    bytes.windows(2).filter(begins).count() + usize::from(bytes.first().is_some_and(|&b| b != 0))
}

/// What accessors need besides the guest's own memory: a page of each.
pub(super) const ACCESS: u64 = 8 << 16;
/// 24 bytes of Wizer's for each.
const MAX_SCATTERED: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted() {
        for (bytes, expect) in [
            (&[][..], 0),
            (&[0], 0),
            (&[1], 1),
            (&[1, 1, 0], 1),
            (&[0, 1, 0, 0, 2, 2], 2),
            (&[1, 0, 1, 0, 1], 3),
        ] {
            assert_eq!(scattered(bytes), expect, "{bytes:?}");
        }
    }
}
