// SPDX-License-Identifier: GPL-2.0
//
// What the emulated machine's BIOS lacks for CPPC: where Linux finds the performance
// registers and the feedback counters of its CPUs, and their nominal frequency, which
// is that of the TSC. See ACPI, "Collaborative Processor Performance Control".

DefinitionBlock ("", "SSDT", 2, "KVMAPM", "CPPC", 1)
{
	External (\_PR.CPU0, ProcessorObj)
	External (\_PR.CPU1, ProcessorObj)

	Name (\CPPC, Package ()
	{
		23,	// entries
		3,	// revision
		ResourceTemplate () { Register (FFixedHW, 8, 24, 0xC00102B0, 4) },	// highest performance
		ResourceTemplate () { Register (FFixedHW, 8, 16, 0xC00102B0, 4) },	// nominal performance
		ResourceTemplate () { Register (FFixedHW, 8, 8, 0xC00102B0, 4) },	// lowest nonlinear performance
		ResourceTemplate () { Register (FFixedHW, 8, 0, 0xC00102B0, 4) },	// lowest performance
		ResourceTemplate () { Register (SystemMemory, 0, 0, 0, 0) },		// guaranteed performance
		ResourceTemplate () { Register (FFixedHW, 8, 16, 0xC00102B3, 4) },	// desired performance
		ResourceTemplate () { Register (FFixedHW, 8, 8, 0xC00102B3, 4) },	// minimum performance
		ResourceTemplate () { Register (FFixedHW, 8, 0, 0xC00102B3, 4) },	// maximum performance
		ResourceTemplate () { Register (SystemMemory, 0, 0, 0, 0) },		// performance reduction tolerance
		ResourceTemplate () { Register (SystemMemory, 0, 0, 0, 0) },		// time window
		ResourceTemplate () { Register (SystemMemory, 0, 0, 0, 0) },		// counter wraparound time
		ResourceTemplate () { Register (FFixedHW, 64, 0, 0xE7, 4) },		// reference counter: MPERF
		ResourceTemplate () { Register (FFixedHW, 64, 0, 0xE8, 4) },		// delivered counter: APERF
		ResourceTemplate () { Register (SystemMemory, 0, 0, 0, 0) },		// performance limited
		ResourceTemplate () { Register (FFixedHW, 1, 0, 0xC00102B1, 4) },	// enable
		ResourceTemplate () { Register (SystemMemory, 0, 0, 0, 0) },		// autonomous selection
		ResourceTemplate () { Register (SystemMemory, 0, 0, 0, 0) },		// autonomous activity window
		ResourceTemplate () { Register (SystemMemory, 0, 0, 0, 0) },		// energy performance preference
		0,									// reference performance: nominal
		20,									// MHz at lowest performance
		200									// MHz at nominal performance
	})

	Scope (\_PR.CPU0)
	{
		Method (_CPC) { Return (\CPPC) }
	}

	If (CondRefOf (\_PR.CPU1))
	{
		Scope (\_PR.CPU1)
		{
			Method (_CPC) { Return (\CPPC) }
		}
	}
}
