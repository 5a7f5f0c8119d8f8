"""What a reader plays with: explorers for pictures, planes and a slice viewer for volumes."""
