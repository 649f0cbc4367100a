<!--
  The facts of a libvirt XML, one a line, in no order: path/@attribute=value or path=text. Two machines are the same when
  their facts are. Devices are identified by what they are for the guest, and a machine type by its family, because libvirt
  writes down which version of q35 it took.
-->
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform">
  <xsl:output method="text"/>
  <xsl:strip-space elements="*"/>

  <xsl:template match="*">
    <xsl:param name="above"/>
    <xsl:variable name="here">
      <xsl:value-of select="concat($above, local-name())"/>
      <xsl:choose>
        <xsl:when test="self::disk">[<xsl:value-of select="target/@dev"/>]</xsl:when>
        <xsl:when test="self::interface">[<xsl:value-of select="mac/@address"/>]</xsl:when>
        <xsl:when test="self::controller">[<xsl:value-of select="concat(@type, ' ', @index)"/>]</xsl:when>
        <xsl:when test="self::input or self::audio">[<xsl:value-of select="concat(@type, ' ', @bus)"/>]</xsl:when>
        <xsl:when test="self::feature or self::entry">[<xsl:value-of select="@name"/>]</xsl:when>
        <xsl:when test="self::seclabel">[<xsl:value-of select="concat(@model, ' ', @type)"/>]</xsl:when>
        <xsl:when test="self::host">[<xsl:value-of select="@mac"/>]</xsl:when>
        <xsl:when test="preceding-sibling::*[name() = name(current())]">[<xsl:number/>]</xsl:when>
      </xsl:choose>
    </xsl:variable>
    <xsl:if test="not(@* | * | text())">
      <xsl:value-of select="concat($here, '&#10;')"/>
    </xsl:if>
    <xsl:for-each select="@*">
      <xsl:value-of select="concat($here, '/@', local-name(), '=')"/>
      <xsl:choose>
        <xsl:when test="local-name() = 'machine' and starts-with(., 'pc-q35-')">q35</xsl:when>
        <xsl:when test="local-name() = 'machine' and starts-with(., 'virt-')">virt</xsl:when>
        <xsl:otherwise><xsl:value-of select="."/></xsl:otherwise>
      </xsl:choose>
      <xsl:text>&#10;</xsl:text>
    </xsl:for-each>
    <xsl:for-each select="text()">
      <xsl:value-of select="concat($here, '=', normalize-space(.), '&#10;')"/>
    </xsl:for-each>
    <xsl:apply-templates select="*">
      <xsl:with-param name="above" select="concat($here, '/')"/>
    </xsl:apply-templates>
  </xsl:template>
</xsl:stylesheet>
