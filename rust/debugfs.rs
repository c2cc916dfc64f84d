// SPDX-License-Identifier: GPL-2.0

//! Read-only files in debugfs, for root.
//!
//! The kernel crate's own have no owner: a module with such a file can be unloaded while the file
//! is open, and closing it then executes what is no longer there. An open file of these pins the
//! module.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use core::{
    marker::PhantomData,
    ops::Deref, //
};

use kernel::{
    ffi::{
        c_int,
        c_void, //
    },
    fmt,
    module::{
        this_module,
        ModuleMetadata, //
    },
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::CString,
    sync::Arc, //
};

use crate::bindings;

/// A file or directory.
///
/// # Invariants
///
/// An entry of debugfs that nobody else removes, or an error, which its functions ignore.
struct Entry(*mut bindings::dentry);

// SAFETY: All functions that take the entry may be called by any task.
unsafe impl Send for Entry {}

// SAFETY: As for `Send`.
unsafe impl Sync for Entry {}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Waits for those who are reading, may sleep.
        unsafe { bindings::debugfs_remove(self.0) };
    }
}

/// A directory. It goes when all its handles and files are dropped.
#[derive(Clone)]
pub struct Directory(Arc<Entry>);

impl Directory {
    /// Creates a directory at the root of debugfs. Process context, may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn create(name: &CStr) -> Result<Self> {
        // SAFETY: `name` is a string; null stands for the root.
        // INVARIANT: Only this entry's drop removes the directory.
        let entry = Entry(unsafe {
            bindings::debugfs_create_dir(name.as_char_ptr(), core::ptr::null_mut())
        });
        Ok(Self(Arc::new(entry, GFP_KERNEL)?))
    }
}

/// What a file shows.
pub trait View: fmt::Display + Send + Sync + 'static {
    /// The module that has the code.
    type OwnerModule: ModuleMetadata;
}

/// A file, and what it shows. Readers run on any CPU, at any time until this is dropped.
// In this order: the file goes before what it shows, and before the directory.
pub struct File<T: View> {
    _entry: Entry,
    data: Pin<KBox<T>>,
    _directory: Directory,
}

impl<T: View> File<T> {
    /// Creates a file in `directory`. Process context, may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn create(directory: &Directory, name: fmt::Arguments<'_>, data: T) -> Result<Self> {
        let name = CString::try_from_fmt(name)?;
        let data = KBox::pin(data, GFP_KERNEL)?;
        // SAFETY: The directory is one. The data does not move, and is dropped after the entry, so
        // that the file's operations find it where they expect it.
        // INVARIANT: Removed by this entry's drop only: the directory lives longer.
        let entry = Entry(unsafe {
            bindings::debugfs_create_file_full(
                name.as_char_ptr(),
                0o400,
                directory.0 .0,
                (&raw const *data).cast_mut().cast(),
                core::ptr::null(),
                Operations::<T>::TABLE,
            )
        });
        Ok(Self {
            _entry: entry,
            data,
            _directory: directory.clone(),
        })
    }
}

impl<T: View> Deref for File<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

struct Operations<T>(PhantomData<T>);

impl<T: View> Operations<T> {
    const TABLE: &'static bindings::file_operations = &bindings::file_operations {
        owner: this_module::<T::OwnerModule>().as_ptr(),
        open: Some(Self::open),
        read: Some(bindings::seq_read),
        llseek: Some(bindings::seq_lseek),
        release: Some(bindings::single_release),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Called by debugfs only, for a file that [`File::create`] made.
    unsafe extern "C" fn open(inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
        // SAFETY: By the contract of this function.
        unsafe { bindings::single_open(file, Some(Self::show), (*inode).i_private) }
    }

    /// # Safety
    ///
    /// Called by seq_file only, for a file that [`Self::open`] opened.
    unsafe extern "C" fn show(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
        // SAFETY: The data is there: debugfs does not read a file that is being removed, and
        // does not finish removing one that is being read.
        let (seq_file, data) = unsafe { (SeqFile::from_raw(seq), &*(*seq).private.cast::<T>()) };
        seq_print!(seq_file, "{data}");
        0
    }
}
