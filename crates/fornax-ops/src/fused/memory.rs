//! Tensors whose numbers lie in memory of the host.

use burn::{
    backend::{Backend, TensorMetadata, tensor::FloatTensor},
    tensor::Shape,
};

/// A backend whose tensors the kernels of [`host`](crate::host) can read and write. All float tensors are `f32`.
pub(crate) trait HostMemory: Backend {
    /// The same numbers, one after another.
    fn contiguous(tensor: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The numbers of a contiguous tensor.
    fn slice(tensor: &FloatTensor<Self>) -> &[f32];

    /// The memory of a tensor from its first number on, and the strides of its axes; `None` where one runs backwards.
    fn strided(tensor: &FloatTensor<Self>) -> Option<(&[f32], Vec<usize>)>;

    /// Memory for a tensor of its own, of which `fill` writes every number.
    fn create(shape: Shape, fill: impl FnOnce(&mut [f32])) -> FloatTensor<Self>;

    /// The numbers of a contiguous tensor that nobody else owns.
    fn slice_mut(tensor: &mut FloatTensor<Self>) -> Option<&mut [f32]>;

    /// A contiguous tensor that nobody else owns: the same one if that is so, or a copy.
    fn owned(tensor: FloatTensor<Self>) -> FloatTensor<Self> {
        let mut tensor = Self::contiguous(tensor);
        if Self::slice_mut(&mut tensor).is_some() {
            return tensor;
        }
        Self::create(tensor.shape(), |out| out.copy_from_slice(Self::slice(&tensor)))
    }
}

#[cfg(feature = "flex")]
mod flex {
    use burn::{
        backend::{
            Flex,
            flex::{FlexTensor, Layout},
        },
        tensor::{Bytes, DType},
    };

    use super::*;

    impl HostMemory for Flex {
        fn contiguous(tensor: FlexTensor) -> FlexTensor {
            if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
        }

        fn slice(tensor: &FlexTensor) -> &[f32] {
            let layout = tensor.layout();
            &tensor.storage()[layout.start_offset()..][..layout.num_elements()]
        }

        fn strided(tensor: &FlexTensor) -> Option<(&[f32], Vec<usize>)> {
            let layout = tensor.layout();
            let strides = layout.strides().iter().map(|stride| usize::try_from(*stride).ok()).collect::<Option<_>>()?;
            Some((&tensor.storage()[layout.start_offset()..], strides))
        }

        fn create(shape: Shape, fill: impl FnOnce(&mut [f32])) -> FlexTensor {
            let mut numbers = unwritten(shape.num_elements());
            fill(&mut numbers);
            FlexTensor::new(Bytes::from_elems(numbers), Layout::contiguous(shape), DType::F32)
        }

        fn slice_mut(tensor: &mut FlexTensor) -> Option<&mut [f32]> {
            let (contiguous, start, len) =
                (tensor.is_contiguous(), tensor.layout().start_offset(), tensor.layout().num_elements());
            let storage = tensor.try_storage_mut::<f32>().filter(|_| contiguous)?;
            Some(&mut storage[start..start + len])
        }
    }

    /// Memory that is about to be written.
    #[allow(unsafe_code, clippy::uninit_vec)]
    fn unwritten(len: usize) -> Vec<f32> {
        let mut numbers = Vec::with_capacity(len);
        // SAFETY: the capacity is there, every bit pattern is an `f32`, and `HostMemory::create` has each number written before
        // one is read. Zeroing first would cost a pass over memory for each operation.
        unsafe { numbers.set_len(len) };
        numbers
    }
}

#[cfg(feature = "libtorch")]
mod libtorch {
    use burn::backend::{LibTorch, libtorch::TchTensor};
    use tch::{Device, Kind, Tensor};

    use super::*;

    impl HostMemory for LibTorch {
        fn contiguous(tensor: TchTensor) -> TchTensor {
            if tensor.tensor.is_contiguous() { tensor } else { TchTensor::new(tensor.tensor.contiguous()) }
        }

        fn slice(tensor: &TchTensor) -> &[f32] {
            memory(&tensor.tensor, tensor.tensor.numel())
        }

        fn strided(tensor: &TchTensor) -> Option<(&[f32], Vec<usize>)> {
            let strides = tensor.tensor.stride();
            let strides = strides.iter().map(|&stride| usize::try_from(stride).ok()).collect::<Option<Vec<_>>>()?;
            let sizes = tensor.tensor.size();
            let last = sizes.iter().zip(&strides).map(|(size, stride)| (*size as usize).saturating_sub(1) * stride);
            let len = if tensor.tensor.numel() == 0 { 0 } else { last.sum::<usize>() + 1 };
            Some((memory(&tensor.tensor, len), strides))
        }

        #[allow(unsafe_code)]
        fn create(shape: Shape, fill: impl FnOnce(&mut [f32])) -> TchTensor {
            let sizes: Vec<i64> = shape.iter().map(|size| *size as i64).collect();
            let tensor = Tensor::empty(&sizes, (Kind::Float, Device::Cpu));
            match tensor.numel() {
                // Without an address.
                0 => fill(&mut []),
                // SAFETY: a new tensor of that many `f32`, which nobody else has; all are written before one is read.
                len => fill(unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), len) }),
            }
            TchTensor::new(tensor)
        }

        #[allow(unsafe_code)]
        fn slice_mut(tensor: &mut TchTensor) -> Option<&mut [f32]> {
            let owned = tensor.can_mut() && tensor.tensor.is_contiguous();
            let (address, len) = (tensor.tensor.data_ptr(), tensor.tensor.numel());
            // SAFETY: `can_mut` says that no other tensor of Burn shares the memory; the borrow lasts as long as the tensor.
            (owned && len > 0).then(|| unsafe { std::slice::from_raw_parts_mut(address.cast(), len) })
        }
    }

    /// `len` numbers from the first one of a tensor on.
    #[allow(unsafe_code)]
    fn memory(tensor: &Tensor, len: usize) -> &[f32] {
        assert_eq!((tensor.kind(), tensor.device()), (Kind::Float, Device::Cpu), "a tensor for a kernel of the host");
        if len == 0 {
            return &[];
        }
        // SAFETY: the tensor owns that memory for as long as it is borrowed, and the callers have computed `len` from its
        // sizes and strides. What Burn writes in place, it writes to tensors that it has alone.
        unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), len) }
    }
}
