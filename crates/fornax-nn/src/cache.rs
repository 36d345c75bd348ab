use burn::tensor::{Int, Tensor};

/// Keys and values of the tokens that one attention layer has seen.
///
/// Memory is taken for less than twice the tokens seen: a step writes what is new and moves the rest but seldom, and
/// [`select`](Self::select) copies little more than what was seen. Rows of a ragged batch all have the same length here:
/// padding is told apart by [`AttentionMask::Segments`](fornax_ops::AttentionMask::Segments), with segment 0 at the cached
/// padding.
#[derive(Clone, Debug)]
pub struct KvCache {
    capacity: usize,
    len: usize,
    stored: Option<Stored>,
}

/// The tokens that memory is taken for at least, where the capacity is not less.
const SMALLEST_ROOM: usize = 16;

/// Both `[batch, kv_heads, room, head_dim]`.
#[derive(Clone, Debug)]
struct Stored {
    key: Tensor<4>,
    value: Tensor<4>,
}

impl KvCache {
    /// An empty cache for up to `capacity` tokens a row.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, len: 0, stored: None }
    }

    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token was seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends the keys and values of new tokens and returns those of all tokens.
    ///
    /// # Shapes
    ///
    /// - `key`, `value`: `[batch, kv_heads, new, head_dim]`
    /// - results: `[batch, kv_heads, seen + new, head_dim]`
    ///
    /// # Panics
    ///
    /// When the tokens don't fit, or when batch, heads or head size change.
    pub fn append(&mut self, key: Tensor<4>, value: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let seen = self.len + key.dims()[2];
        assert!(seen <= self.capacity, "key-value cache: {seen} tokens do not fit in {}", self.capacity);
        let room = seen.next_power_of_two().max(SMALLEST_ROOM).min(self.capacity);
        let stored = match self.stored.take() {
            Some(stored) => Stored { key: grown(stored.key, room), value: grown(stored.value, room) },
            None => Stored { key: empty_like(&key, room), value: empty_like(&value, room) },
        };
        // The tensors are owned here alone, so the assignment is in place where the backend can.
        let stored = Stored { key: write(stored.key, key, self.len), value: write(stored.value, value, self.len) };
        let all = (stored.key.clone().narrow(2, 0, seen), stored.value.clone().narrow(2, 0, seen));
        self.stored = Some(stored);
        self.len = seen;
        all
    }

    /// Row `i` becomes what row `rows[i]` was: beams that go on from other beams, or rows that are done and leave.
    ///
    /// # Shapes
    ///
    /// - `rows`: `[new_batch]`, each below the number of rows
    pub fn select(&mut self, rows: &Tensor<1, Int>) {
        self.stored = self.stored.take().map(|stored| Stored {
            key: stored.key.select(0, rows.clone()),
            value: stored.value.select(0, rows.clone()),
        });
    }
}

fn empty_like(tensor: &Tensor<4>, room: usize) -> Tensor<4> {
    let [batch, heads, _, size] = tensor.dims();
    Tensor::zeros([batch, heads, room, size], (&tensor.device(), tensor.dtype()))
}

/// With room for at least `room` tokens.
fn grown(stored: Tensor<4>, room: usize) -> Tensor<4> {
    match room.checked_sub(stored.dims()[2]) {
        None | Some(0) => stored,
        Some(more) => {
            let more = empty_like(&stored, more);
            Tensor::cat(vec![stored, more], 2)
        }
    }
}

fn write(stored: Tensor<4>, new: Tensor<4>, at: usize) -> Tensor<4> {
    let ([batch, heads, _, size], [new_batch, new_heads, len, new_size]) = (stored.dims(), new.dims());
    assert_eq!([batch, heads, size], [new_batch, new_heads, new_size], "key-value cache: [batch, heads, size]");
    stored.slice_assign([0..batch, 0..heads, at..at + len, 0..size], new)
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use fornax_backend::test_device;

    use super::*;

    /// One head of one number for each of two rows.
    fn column(rows: [f32; 2]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(rows.to_vec(), [2, 1, 1, 1]), &test_device())
    }

    fn numbers(tensor: Tensor<4>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    fn room(cache: &KvCache) -> Option<usize> {
        cache.stored.as_ref().map(|stored| stored.key.dims()[2])
    }

    /// One token at a time and all at once, past the first room and up to the last.
    #[test]
    fn room_grows_with_the_tokens_and_keeps_them() {
        let (mut cache, mut rooms) = (KvCache::new(75), Vec::new());
        for token in 0..75 {
            let number = token as f32;
            let (key, value) = cache.append(column([number, 100.0 + number]), column([-number, -100.0 - number]));
            let seen = |first: f32| (0..=token).map(move |token| first + token as f32);
            assert_eq!(numbers(key), seen(0.0).chain(seen(100.0)).collect::<Vec<_>>());
            assert_eq!(numbers(value), seen(0.0).chain(seen(100.0)).map(|x| -x).collect::<Vec<_>>());
            rooms.extend(room(&cache));
        }
        rooms.dedup();
        assert_eq!((rooms, cache.len(), cache.capacity()), (vec![16, 32, 64, 75], 75, 75));
        let mut whole = KvCache::new(75);
        let prompt = Tensor::cat((0..40).map(|token| column([token as f32; 2])).collect(), 2);
        whole.append(prompt.clone(), prompt);
        assert_eq!(room(&whole), Some(64));
    }

    #[test]
    fn selected_rows_go_on_with_what_they_had() {
        let mut cache = KvCache::new(3);
        cache.append(column([1.0, 2.0]), column([-1.0, -2.0]));
        cache.select(&Tensor::from_data(TensorData::from([1i64, 1]), &test_device()));
        let (key, value) = cache.append(column([3.0, 4.0]), column([-3.0, -4.0]));
        assert_eq!(numbers(key), [2.0, 3.0, 2.0, 4.0]);
        assert_eq!(numbers(value), [-2.0, -3.0, -2.0, -4.0]);
        assert_eq!(cache.len(), 2);
    }
}
