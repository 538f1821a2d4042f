package cli

// SettingsSchema is that of Settings.
const SettingsSchema = "leeward.config.v1"

// Setting is one value and where it came from.
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "default", the flag, the variable, or the file and its line
}

// Settings is what an appliance would run with, as `leeward config show` prints it.
// Schema "leeward.config.v1".
type Settings struct {
	Schema string    `json:"schema"`
	File   string    `json:"file"`
	Items  []Setting `json:"items"`
}
